use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::records::conductor::fake::{FakeConductor, Mishap};
use crate::records::conductor::{ConductorOptions, Raised};

const INTERVAL: Duration = Duration::from_secs(10);

struct World {
    fake: Arc<FakeConductor>,
    conductor: Conductor,
}

impl World {
    /// A cell with a conductor of this version.
    fn new(conductor_version: i64) -> Self {
        let fake = Arc::new(FakeConductor::new());
        let options = ConductorOptions::new(Duration::from_secs(60));
        let conductor = Conductor::new(fake.clone(), options);
        let world = Self { fake, conductor };
        world.add("controller", "nova-conductor", conductor_version);
        world
    }

    fn add(&self, host: &str, binary: &str, version: i64) {
        let mut service = Service::default();
        service.host.load(Some(Some(host.to_owned())));
        service.binary.load(Some(Some(binary.to_owned())));
        service.version.load(Some(version));
        service.report_count.load(Some(7));
        service.disabled.load(Some(false));
        service.disabled_reason.load(Some(None));
        service.forced_down.load(Some(false));
        self.fake.add(&service);
    }

    fn options(&self) -> ServiceOptions {
        let host = "h1".to_owned();
        ServiceOptions { host, report_interval: INTERVAL, allow_old_computes: false }
    }

    async fn found(&self) -> Result<Found, ServiceError> {
        find(&self.conductor, self.options()).await
    }

    async fn registered(&self) -> NovaService {
        let registered = self.found().await.unwrap().register().await.unwrap();
        self.fake.take_calls();
        registered
    }

    fn on_record(&self) -> Service {
        let rows = self.fake.rows::<Service>();
        rows.into_iter().find(|service| service.host.text() == Some("h1")).unwrap()
    }

    fn change(&self, field: &'static str, value: serde_json::Value) {
        self.fake.change("Service", |row| {
            if row.get("host") == Some(&json!("h1")) {
                row.insert(field.to_owned(), value.clone());
            }
        });
    }

    fn count(&self) -> i64 {
        *self.on_record().report_count.get().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_host_is_registered_with_the_control_planes_version() {
    let world = World::new(72);
    let found = world.found().await.unwrap();
    assert_eq!(found.service(), None);
    assert_eq!(world.fake.rows::<Service>().len(), 1, "nothing is written yet");
    let service = found.register().await.unwrap();
    let record = world.on_record();
    assert_eq!(record.version.get(), Some(&72));
    assert_eq!(record.topic.text(), Some("compute"));
    assert_eq!(record.report_count.get(), Some(&0));
    assert_eq!(service.status().id, *record.id.get().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_known_keeps_its_record_and_counts_on() {
    let world = World::new(72);
    world.add("h1", "nova-compute", 72);
    let service = world.registered().await;
    assert_eq!(world.count(), 7);
    service.beat().await;
    assert_eq!(world.count(), 8);
    assert_eq!(world.fake.take_calls(), ["Service.save"]);
    assert!(world.on_record().last_seen_up.value().is_some());
}

#[tokio::test(start_paused = true)]
async fn another_version_is_written_at_the_start() {
    let world = World::new(72);
    world.add("h1", "nova-compute", 68);
    world.registered().await;
    assert_eq!(world.on_record().version.get(), Some(&72));
}

#[tokio::test(start_paused = true)]
async fn computes_too_old_or_too_new_for_each_other_dont_start() {
    let world = World::new(72);
    world.add("h2", "nova-compute", 66);
    let refused = world.found().await.unwrap_err();
    assert!(matches!(refused, ServiceError::OldComputes { found: 66, oldest: 68 }), "{refused}");
    let options = ServiceOptions { allow_old_computes: true, ..world.options() };
    assert!(find(&world.conductor, options).await.is_ok());

    let world = World::new(76);
    world.add("h2", "nova-compute", 75);
    let refused = world.found().await.unwrap_err();
    assert!(matches!(refused, ServiceError::NewComputes { found: 75 }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_answer_was_lost_is_found() {
    for mishap in [Mishap::LostAnswer, Mishap::LostRequest] {
        let world = World::new(72);
        world.fake.mishap("Service.create", mishap);
        world.registered().await;
        assert_eq!(world.fake.rows::<Service>().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_operator_has_changed_is_seen_and_never_written_back() {
    let world = World::new(72);
    let service = world.registered().await;
    world.change("disabled", json!(true));
    world.change("disabled_reason", json!("broken fan"));
    world.change("forced_down", json!(true));
    service.beat().await;
    let status = service.status();
    assert!(status.disabled && status.forced_down);
    assert_eq!(status.disabled_reason.as_deref(), Some("broken fan"));
    service.beat().await;
    assert_eq!(world.on_record().disabled.get(), Some(&true));
    assert_eq!(world.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_conductor_that_is_away_is_told_once_and_back_once() {
    let world = World::new(72);
    let service = world.registered().await;
    let link = || *service.link();
    for _ in 0..3 {
        world.fake.mishap("Service.save", Mishap::LostRequest);
        let begun = Instant::now();
        service.beat().await;
        assert_eq!((link(), begun.elapsed()), (Link::Silent, INTERVAL * 3));
    }
    service.beat().await;
    assert_eq!((link(), world.count()), (Link::Up, 4));
    world.fake.mishap("Service.save", Mishap::Raised(Raised::nova("ServiceNotFound", "gone")));
    service.beat().await;
    assert_eq!(link(), Link::Gone);
    world.fake.mishap("Service.save", Mishap::Raised(Raised::nova("ServiceTooOld", "no")));
    service.beat().await;
    assert_eq!(link(), Link::Refused);
}

#[tokio::test(start_paused = true)]
async fn two_heartbeats_are_never_under_way_at_once() {
    let world = World::new(72);
    let service = world.registered().await;
    world.fake.mishap("Service.save", Mishap::LostRequest);
    tokio::join!(service.beat(), service.beat());
    assert_eq!(world.fake.take_calls(), ["Service.save"]);
}

#[tokio::test(start_paused = true)]
async fn the_version_follows_an_upgrade_of_the_control_plane() {
    let world = World::new(72);
    let service = world.registered().await;
    let upgrade = |version: i64| {
        world.fake.change("Service", |row| {
            if row.get("binary") == Some(&json!("nova-conductor")) {
                row.insert("version".to_owned(), json!(version));
            }
        });
    };
    upgrade(74);
    service.beat().await;
    assert_eq!(service.status().version, 72, "it isn't asked for each time");
    tokio::time::advance(LEVEL_EVERY).await;
    service.beat().await;
    assert_eq!(service.status().version, 74);
    assert_eq!(world.on_record().version.get(), Some(&74));
    upgrade(72);
    tokio::time::advance(LEVEL_EVERY).await;
    service.beat().await;
    assert_eq!(service.status().version, 74, "never back");
}

#[tokio::test(start_paused = true)]
async fn only_what_the_agent_disabled_is_enabled_by_it() {
    let world = World::new(72);
    let service = world.registered().await;
    service.beat().await;
    assert!(!service.set_enabled(None).await.unwrap());
    assert!(service.set_enabled(Some("libvirt is away")).await.unwrap());
    assert_eq!(world.on_record().disabled_reason.text(), Some("AUTO: libvirt is away"));
    assert!(service.status().disabled);
    assert!(!service.set_enabled(Some("libvirt is away")).await.unwrap());
    assert!(service.set_enabled(None).await.unwrap());
    assert_eq!(world.on_record().disabled_reason.get(), Some(&None));

    world.change("disabled", json!(true));
    world.change("disabled_reason", json!("maintenance"));
    assert!(!service.set_enabled(None).await.unwrap());
    assert!(!service.set_enabled(Some("libvirt is away")).await.unwrap());
    assert_eq!(world.on_record().disabled_reason.text(), Some("maintenance"));
    service.beat().await;
    assert_eq!(world.count(), 2, "it counts on");
}
