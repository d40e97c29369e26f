//! What the owner of an instance is told: events and faults.

use hypernova::model::class::Class;
use hypernova::records::InstanceFault;

use crate::worlds::{context, over_all};

#[tokio::test]
async fn an_instance_that_isnt_on_record_can_be_told_nothing() {
    over_all(async |world| {
        let (records, uuid) = (&world.records, world.uuid(5));
        let nothing = InstanceFault { code: 500, message: String::new(), details: String::new() };
        let calls = [
            records.event_started(&context(), uuid, "compute_stop_instance").await,
            records.event_finished(&context(), uuid, "compute_stop_instance", None).await,
            records.record_fault(&context(), uuid, nothing).await,
        ];
        for call in calls {
            assert_eq!(call.unwrap_err().class(), Class::Absent);
        }
        assert_eq!(records.events(uuid).await.unwrap(), []);
        assert_eq!(records.faults(uuid).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn events_say_how_an_action_went() {
    over_all(async |world| {
        let (records, uuid) = (&world.records, world.uuid(1));
        let mut instance = world.add(1).await;
        let (stop, delete) = (world.request(1, "stop").await, world.request(1, "delete").await);
        records.event_started(&stop, uuid, "compute_stop_instance").await.unwrap();
        records
            .event_finished(&stop, uuid, "compute_stop_instance", Some(("no answer", "trace")))
            .await
            .unwrap();
        records.event_started(&delete, uuid, "compute_terminate_instance").await.unwrap();
        records.destroy(&context(), &mut instance).await.unwrap();
        records.event_finished(&delete, uuid, "compute_terminate_instance", None).await.unwrap();

        let events = records.events(uuid).await.unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.event.as_str(), e.failure.as_deref(), e.details.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                ("compute_stop_instance", Some("no answer"), Some("trace")),
                ("compute_terminate_instance", None, None)
            ]
        );
        assert!(events.iter().all(|e| e.finished_at.is_some()));
        assert_eq!(events[0].request_id, stop.request_id());
    })
    .await;
}

#[tokio::test]
async fn a_repeat_in_one_request_is_one_event() {
    over_all(async |world| {
        let (records, uuid) = (&world.records, world.uuid(1));
        world.add(1).await;
        let mut stop = world.request(1, "stop").await;
        records.event_started(&stop, uuid, "compute_stop_instance").await.unwrap();
        // The agent was restarted since it came.
        stop.rest.insert("timestamp".to_owned(), "2026-01-01T00:00:00.000000".into());
        records.event_started(&stop, uuid, "compute_stop_instance").await.unwrap();
        let events = records.events(uuid).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].finished_at, events[0].failure.as_deref()), (None, None));
    })
    .await;
}

#[tokio::test]
async fn faults_are_kept_in_order_and_cut_to_novas_length() {
    over_all(async |world| {
        let (records, uuid) = (&world.records, world.uuid(1));
        world.add(1).await;
        for message in ["first".to_owned(), "é".repeat(400)] {
            let fault = InstanceFault { code: 500, message, details: "details".into() };
            records.record_fault(&context(), uuid, fault).await.unwrap();
        }
        let faults = records.faults(uuid).await.unwrap();
        assert_eq!(faults[0].message, "first");
        assert_eq!(faults[1].message, "é".repeat(255));
        assert_eq!((faults[1].code, faults[1].details.as_str()), (500, "details"));
    })
    .await;
}
