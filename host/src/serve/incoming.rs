//! The body of a request: JSON, of bounded size, in bounded time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::timeout;

use super::error::ApiError;

/// Largest body: a prompt of some hundred thousand tokens.
const MOST_BYTES: usize = 1 << 20;
/// Of a larger body, this much is read and dropped, because many clients read no answer before they have sent everything.
const MOST_DRAINED_BYTES: usize = 16 << 20;

/// Reads the body.
///
/// # Errors
///
/// Returns 415 if it is not said to be JSON, 413 if it is too large, 408 if it takes longer than `limit`, and 400 if it is not
/// JSON.
pub(super) async fn json(request: Request, limit: Duration) -> Result<Value, ApiError> {
    // A page of another origin can send anything but this type without being asked first.
    let is_json = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(ApiError::not_json());
    }
    let bytes = timeout(limit, read(request.into_body())).await.map_err(|_| ApiError::too_slow(limit.as_secs()))??;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::malformed(format!("the body is not valid JSON: {error}")))
}

async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut parts = body.into_data_stream();
    let (mut bytes, mut num_bytes) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| ApiError::malformed("the body ended before its length"))?;
        num_bytes += part.len();
        if num_bytes > MOST_DRAINED_BYTES {
            break;
        }
        if num_bytes > MOST_BYTES {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&part);
        }
    }
    if num_bytes > MOST_BYTES { Err(ApiError::too_large(MOST_BYTES)) } else { Ok(bytes) }
}
