//! Images that are fetched before a guest asks for them. nova: compute/manager.py, cache_images

use serde_json::{Map, Value};
use tracing::{info, warn};

use crate::images::{ImageError, ImageRequest};
use crate::model::context::RequestContext;
use crate::telemetry::Chain;
use crate::workflow::Backends;

/// Puts each image into the cache, one after the other, by the rights of who asks, and says what
/// became of it: `cached`, `existing`, or `error`, which is logged.
pub async fn cache_images(on: &Backends, context: &RequestContext, ids: Vec<String>) -> Value {
    info!(images = ids.len(), "caching images by request");
    let mut results = Map::new();
    for id in ids {
        let result = match cache(on, context, &id).await {
            Ok(true) => "cached",
            Ok(false) => "existing",
            Err(error) => {
                warn!(image_id = id, error = %Chain(&error), "the image is not cached");
                "error"
            }
        };
        results.insert(id, result.into());
    }
    Value::Object(results)
}

/// Whether it had to be fetched.
async fn cache(on: &Backends, context: &RequestContext, id: &str) -> Result<bool, ImageError> {
    if on.images.is_cached(id).await? {
        return Ok(false);
    }
    on.images.cache(context, &ImageRequest::by_id(id), &|_, _| {}).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::world::World;

    #[tokio::test]
    async fn each_image_has_its_own_result() {
        let world = World::new();
        world.images.forget_image("missing");
        let on = world.backends();
        let context = RequestContext::admin();
        let ask = async |ids: &[&str]| {
            let ids = ids.iter().map(|id| (*id).to_owned()).collect();
            cache_images(&on, &context, ids).await
        };
        let answer = ask(&["one", "missing", "two"]).await;
        assert_eq!(answer, json!({"one": "cached", "missing": "error", "two": "cached"}));
        assert_eq!(ask(&["two"]).await, json!({"two": "existing"}));
        assert_eq!(world.images.fetches(), 2);
    }
}
