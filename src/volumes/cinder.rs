//! Cinder's volumes. nova: volume/cinder.py

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{VolumeError, VolumeSnapshots};
use crate::model::context::RequestContext;
use crate::openstack::{Api, ApiError, ApiRequest, Identity};

/// Ids are UUIDs.
const LONGEST_ID: usize = 255;

/// The volume service, asked with the user's own token.
pub struct Cinder {
    api: Arc<dyn Api>,
}

impl Cinder {
    pub fn new(api: Arc<dyn Api>) -> Self {
        Self { api }
    }
}

#[async_trait]
impl VolumeSnapshots for Cinder {
    /// nova: `get_snapshot`
    async fn is_being_made(
        &self,
        context: &RequestContext,
        snapshot: &str,
    ) -> Result<bool, VolumeError> {
        // It becomes a part of a path.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if snapshot.is_empty() || snapshot.len() > LONGEST_ID || !snapshot.bytes().all(plain) {
            return Ok(false);
        }
        let request = ApiRequest::get(format!("/snapshots/{snapshot}"), Identity::User(context));
        let answer = self.api.send(request).await.and_then(|answer| answer.success("snapshot"));
        match answer {
            Ok(answer) => {
                let status = answer.body.pointer("/snapshot/status").and_then(Value::as_str);
                Ok(status == Some("creating"))
            }
            Err(ApiError::Status { status: 404, .. }) => Ok(false),
            Err(source) => Err(VolumeError::Snapshot { snapshot: snapshot.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::openstack::ApiResponse;

    /// Answers each snapshot by its name.
    struct Answers;

    #[async_trait]
    impl Api for Answers {
        async fn send(&self, request: ApiRequest<'_>) -> Result<ApiResponse, ApiError> {
            let (status, body) = match request.path.as_str() {
                "/snapshots/creating" => (200, json!({"snapshot": {"status": "creating"}})),
                "/snapshots/available" => (200, json!({"snapshot": {"status": "available"}})),
                "/snapshots/error" => (200, json!({"snapshot": {"status": "error"}})),
                "/snapshots/gone" => (404, json!({})),
                "/snapshots/broken" => (500, json!({})),
                other => panic!("{other} was asked for"),
            };
            Ok(ApiResponse { status, body, request_id: None })
        }
    }

    #[tokio::test]
    async fn only_creating_is_being_made() {
        let cinder = Cinder::new(Arc::new(Answers));
        let context = RequestContext::admin();
        for (id, expected) in [
            ("creating", true),
            ("available", false),
            ("error", false),
            ("gone", false),
            ("../volumes", false),
            ("", false),
        ] {
            assert_eq!(cinder.is_being_made(&context, id).await.unwrap(), expected, "{id}");
        }
        assert!(cinder.is_being_made(&context, "broken").await.is_err());
    }
}
