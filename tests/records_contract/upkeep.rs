//! What periodic tasks and recovery ask: deleted instances, and what is left of them.

use hypernova::model::state::VmState;
use hypernova::records::fake::FakeRecords;
use hypernova::records::sqlite::SqliteRecords;
use hypernova::records::upkeep::Upkeep;
use hypernova::records::{Expected, Records, RecordsError};
use uuid::Uuid;

use crate::worlds::{build, context};

trait Kept: Records + Upkeep {}
impl<T: Records + Upkeep> Kept for T {}

async fn over_both(claim: impl AsyncFn(&dyn Kept)) {
    claim(&FakeRecords::new("h1")).await;
    let directory = tempfile::tempdir().unwrap();
    let records = SqliteRecords::open(&directory.path().join("records.sqlite"), "h1").unwrap();
    claim(&records).await;
}

#[tokio::test]
async fn only_what_is_on_record_as_deleted_is_deleted() {
    over_both(async |records| {
        let uuid = Uuid::from_u128;
        for number in 1..=3 {
            records.receive(&context(), build(number)).await.unwrap();
        }
        let mut gone = records.instance(&context(), uuid(1)).await.unwrap().unwrap();
        records.destroy(&context(), &mut gone).await.unwrap();
        let mut soft = records.instance(&context(), uuid(2)).await.unwrap().unwrap();
        soft.vm_state.set(Some(VmState::SoftDeleted));
        records.save(&context(), &mut soft, Expected::Any).await.unwrap();
        let asked: Vec<_> = (1..=4).map(uuid).collect();
        let deleted = records.deleted_among(&context(), &asked).await.unwrap();
        assert_eq!(deleted, [gone]);
        let here = records.instances_of(&context(), &["h0".into(), "h1".into()]).await.unwrap();
        assert_eq!(here, records.instances(&context(), &[]).await.unwrap());
        assert!(records.instances_of(&context(), &["h0".into()]).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_deleted_instance_is_uncleaned_until_its_record_says_otherwise() {
    over_both(async |records| {
        let mut gone = records.receive(&context(), build(1)).await.unwrap();
        records.receive(&context(), build(2)).await.unwrap();
        assert!(records.uncleaned(&context()).await.unwrap().is_empty());
        gone.cleaned.set(true);
        let early = records.save_deleted(&context(), &mut gone.clone()).await.unwrap_err();
        assert!(matches!(early, RecordsError::NotFound(_)), "{early:?}");
        records.destroy(&context(), &mut gone).await.unwrap();
        let mut left = records.uncleaned(&context()).await.unwrap();
        assert_eq!(left.len(), 1);
        left[0].cleaned.set(true);
        records.save_deleted(&context(), &mut left[0]).await.unwrap();
        assert!(records.uncleaned(&context()).await.unwrap().is_empty());
    })
    .await;
}
