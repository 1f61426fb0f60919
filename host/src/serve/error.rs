//! Errors as OpenAI's API returns them: `{"error": {"message", "type", "param", "code"}}`.

use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code: None }
    }

    fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    fn with_param(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// 400: the request as a whole.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// 400: one field of it.
    pub(super) fn field(param: &str, message: impl Into<String>) -> Self {
        Self::malformed(message).with_param(param).with_code("invalid_value")
    }

    /// 400: a field of OpenAI's API that would change the answer and that this server does not implement.
    pub(super) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::malformed(message).with_param(param).with_code("unsupported_parameter")
    }

    /// 400: prompt and answer do not fit the context.
    pub(super) fn context_length(param: &str, message: impl Into<String>) -> Self {
        Self::malformed(message).with_param(param).with_code("context_length_exceeded")
    }

    /// 401.
    pub(super) fn unauthorized() -> Self {
        let message = "the API key is missing or wrong: send it in the header `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, INVALID, message).with_code("invalid_api_key")
    }

    /// 403: a page of another origin may be behind the request.
    pub(super) fn foreign_host(host: &str) -> Self {
        let message = format!(
            "the Host header is `{host}`, but a server on a loopback address without an API key answers only to localhost, \
             127.0.0.1 and [::1], because a web page could reach it by a name of its own: use one of these, or start the \
             server with --api-key"
        );
        Self::new(StatusCode::FORBIDDEN, INVALID, message).with_code("foreign_host")
    }

    /// 404: no such model.
    pub(super) fn no_model(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, message).with_param("model").with_code("model_not_found")
    }

    /// 404: no such route.
    pub(super) fn no_route(method: &str, path: &str) -> Self {
        let message = format!(
            "there is no {method} {path} here; there are GET /, /health, /metrics and /v1/models, and POST \
             /v1/chat/completions and /v1/completions"
        );
        Self::new(StatusCode::NOT_FOUND, INVALID, message).with_code("unknown_url")
    }

    /// 405.
    pub(super) fn method(method: &str, path: &str) -> Self {
        let allowed = if path.ends_with("/completions") { "POST" } else { "GET" };
        let message = format!("{path} takes {allowed}, not {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message).with_code("method_not_allowed")
    }

    /// 408.
    pub(super) fn too_slow(seconds: u64) -> Self {
        let message =
            format!("the request's body did not arrive within {seconds} s: send it faster, or raise --client-timeout");
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, message).with_code("request_timeout")
    }

    /// 413.
    pub(super) fn too_large(most_bytes: usize) -> Self {
        let message = format!("the request's body is larger than {most_bytes} bytes: send shorter or fewer prompts");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message).with_code("request_too_large")
    }

    /// 415.
    pub(super) fn not_json() -> Self {
        let message = "the body must be JSON, and the header `Content-Type: application/json` must say so";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message).with_code("unsupported_media_type")
    }

    /// 429.
    pub(super) fn busy(capacity: usize) -> Self {
        let message = format!(
            "the server has {capacity} texts running and waiting, and the queue is full: try again in a moment"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).with_code("rate_limit_exceeded")
    }

    /// 500.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).with_code("internal_error")
    }

    /// 503.
    pub(super) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            SERVER,
            "the server is stopping: send the request to another one, or later",
        )
        .with_code("stopping")
    }

    /// Returns the error object.
    pub(super) fn to_json(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = body::json(&self.to_json());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // What is left of the body is not read.
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
