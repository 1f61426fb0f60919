//! Routes, and what is checked before them: key, host, panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::answer::answer;
use super::api::chat::ChatRequest;
use super::api::completions::CompletionRequest;
use super::api::plan::Plan;
use super::body;
use super::error::ApiError;
use super::incoming;
use super::state::App;

/// The page at `/`.
const PAGE: &str = include_str!("page.html");
/// What the page may do: run its own script, and talk to this server. Nothing is loaded from elsewhere, and no other page may
/// frame it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                           img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The routes, by which requests are counted.
const ROUTES: [&str; 6] = ["/", "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions"];

/// Returns the server's routes. `is_loopback` says whether only this machine reaches them.
///
/// There are no CORS headers: no page of another origin may read an answer, or send a request that makes one.
pub(super) fn router(app: Arc<App>, is_loopback: bool) -> Router {
    let checks_host = is_loopback && !app.has_api_key();
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .fallback(async |method: Method, uri: Uri| ApiError::no_route(method.as_str(), uri.path()))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| ApiError::method(method.as_str(), uri.path()))
        .layer(from_fn_with_state((Arc::clone(&app), checks_host), check))
        .layer(from_fn_with_state(Arc::clone(&app), watch))
        .with_state(app)
}

async fn page() -> Response {
    let mut response = Html(PAGE).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if app.is_stopping() { Err(ApiError::stopping()) } else { Ok(body::json(&json!({ "status": "ok" }))) }
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let text = app.metrics.text(app.num_texts()).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    Ok(response)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    body::json(&app.catalogue.list(app.created, app.max_model_len, app.has_chat_template))
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = read(&app, request).await?;
    let request = ChatRequest::read(&app, &body)?;
    let places = app.places(request.num_texts())?;
    let (plan, places) = plan(&app, places, move |app| request.plan(app)).await?;
    answer(app, plan, places).await
}

async fn completions(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let body = read(&app, request).await?;
    let request = CompletionRequest::read(&app, &body)?;
    let places = app.places(request.num_texts())?;
    let (plan, places) = plan(&app, places, move |app| request.plan(app)).await?;
    answer(app, plan, places).await
}

async fn read(app: &App, request: Request) -> Result<Value, ApiError> {
    if app.is_stopping() {
        return Err(ApiError::stopping());
    }
    incoming::json(request, app.client_timeout).await
}

/// Tokenises on a thread of its own, because a long prompt takes long; the places stay taken until that is done, even if the
/// client leaves.
async fn plan(
    app: &Arc<App>,
    places: Vec<OwnedSemaphorePermit>,
    make: impl FnOnce(&App) -> Result<Plan, ApiError> + Send + 'static,
) -> Result<(Plan, Vec<OwnedSemaphorePermit>), ApiError> {
    let app = Arc::clone(app);
    let made = spawn_blocking(move || make(&app).map(|plan| (plan, places))).await;
    made.map_err(|_| panicked())?
}

fn panicked() -> ApiError {
    ApiError::internal("the request failed by a defect of the server, whose log has the message")
}

/// Checks host and key.
async fn check(State((app, checks_host)): State<(Arc<App>, bool)>, request: Request, next: Next) -> Response {
    if checks_host {
        let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        if let Some(host) = host.filter(|host| !is_local(host)) {
            return ApiError::foreign_host(&host).into_response();
        }
    }
    if request.uri().path().starts_with("/v1/") && !app.allows(bearer(&request)) {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

/// Returns whether a Host header names this machine, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_loopback = |address: &str| address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    name.eq_ignore_ascii_case("localhost") || is_loopback(name.trim_start_matches('[').trim_end_matches(']'))
}

fn bearer(request: &Request) -> Option<&[u8]> {
    let value = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Counts the request, turns a panic into 500, and keeps browsers from guessing types.
async fn watch(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = ROUTES.into_iter().find(|route| *route == request.uri().path()).unwrap_or("other");
    let mut counted = Counted { app, route, status: CLIENT_LEFT };
    let mut response = caught(next.run(request)).await;
    counted.status = response.status().as_u16();
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Turns a panic into 500: it ends neither the connection nor the server.
async fn caught(response: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(response).catch_unwind().await.unwrap_or_else(|_| panicked().into_response())
}

/// Status of a request whose client left before its answer began, as nginx counts it.
const CLIENT_LEFT: u16 = 499;

/// Counts a request when it is dropped, which also happens when its client leaves.
struct Counted {
    app: Arc<App>,
    route: &'static str,
    status: u16,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.app.metrics.requests.with_label_values(&[self.route, &self.status.to_string()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::unwrap_used, reason = "tests")]
    fn a_panic_is_an_answer_of_status_500() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(caught(async { panic!("a defect") }));
        assert_eq!(response.status(), 500);
        assert_eq!(runtime.block_on(caught(async { Response::default() })).status(), 200);
    }

    #[test]
    fn hosts_of_this_machine_are_known() {
        for host in ["localhost", "localhost:8000", "LocalHost:1", "127.0.0.1:8000", "127.1.2.3", "[::1]", "[::1]:8000"]
        {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com:80",
            "10.0.0.1",
            "[::2]:80",
            "",
            "localhost:x",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
