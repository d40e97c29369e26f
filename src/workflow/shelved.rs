//! What a shelved instance's record says of its shelving, and the image that its disk became.
//! nova: compute/utils.py, `remove_shelved_keys_from_system_metadata`

use tracing::warn;

use super::engine::Stage;
use crate::images::sink::TargetImage;
use crate::model::object::Instance;
use crate::model::time::Timestamp;
use crate::telemetry::Chain;

const AT: &str = "shelved_at";
const IMAGE: &str = "shelved_image_id";
const HOST: &str = "shelved_host";

/// Notes that the instance's disk is in `image` now.
pub fn note(instance: &mut Instance, image: &TargetImage, host: &str) {
    // As Python's isoformat has it: nova reads it back.
    let at = Timestamp::now().to_string().trim_end_matches('Z').to_owned();
    let at = if at.contains('.') { at } else { format!("{at}.000000") };
    instance.system_metadata.update(|metadata| {
        metadata.insert(AT.to_owned(), Some(at));
        metadata.insert(IMAGE.to_owned(), Some(image.id.clone()));
        metadata.insert(HOST.to_owned(), Some(host.to_owned()));
    });
}

/// When it was shelved; `None` for one that isn't, or whose record doesn't make sense.
pub fn shelved_at(instance: &Instance) -> Option<Timestamp> {
    instance.system_metadata(AT).and_then(Timestamp::parse)
}

/// The image that its disk is in; a guest that boots from a volume has none.
pub fn image(instance: &Instance) -> Option<&str> {
    instance.system_metadata(IMAGE).filter(|image| !image.is_empty())
}

/// It isn't shelved any more.
pub fn forget(instance: &mut Instance) {
    let is_noted = |metadata: &std::collections::BTreeMap<String, Option<String>>| {
        [AT, IMAGE, HOST].iter().any(|key| metadata.contains_key(*key))
    };
    if instance.system_metadata.get().is_some_and(is_noted) {
        instance.system_metadata.update(|metadata| {
            [AT, IMAGE, HOST].iter().for_each(|key| drop(metadata.remove(*key)));
        });
    }
}

/// Removes the image of an instance that runs again. It isn't the instance's matter if that fails.
/// nova: compute/manager.py, `_delete_snapshot_of_shelved_instance`
pub async fn discard(image: &str, stage: &Stage<'_>) {
    // It is the record that names it: a file that root alone may name isn't meant.
    let image = TargetImage { id: image.to_owned(), any_file: false };
    if let Err(error) = stage.on.sink.discard(stage.context, &image).await {
        warn!(image = image.id, error = %Chain(&error), "the shelved instance's image is left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_and_forgotten() {
        let mut instance = Instance::default();
        instance.system_metadata.load(Some(Default::default()));
        forget(&mut instance);
        assert!(!instance.system_metadata.is_changed(), "nothing was there to forget");
        let target = TargetImage { id: "i".to_owned(), any_file: true };
        let before = Timestamp::now().as_second();
        note(&mut instance, &target, "host1");
        assert_eq!(image(&instance), Some("i"));
        let at = shelved_at(&instance).unwrap().as_second();
        assert!((before..=before + 5).contains(&at), "{at}");
        forget(&mut instance);
        assert_eq!(instance.system_metadata.get().map(|all| all.len()), Some(0));
    }

    #[test]
    fn a_time_as_nova_writes_it_is_read() {
        let mut instance = Instance::default();
        for (text, at) in [
            ("2026-11-20T22:00:25.280218", Some("2026-11-20T22:00:25Z")),
            ("2026-11-20T22:00:25", Some("2026-11-20T22:00:25Z")),
            ("yesterday", None),
        ] {
            let metadata = [(AT.to_owned(), Some(text.to_owned()))];
            instance.system_metadata.load(Some(metadata.into_iter().collect()));
            assert_eq!(shelved_at(&instance), at.and_then(Timestamp::parse), "{text}");
        }
    }
}
