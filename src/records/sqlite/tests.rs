//! What only the file shows: modes, columns, formats, and what outlives the agent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::model::state::VmState;

fn message(uuid: u128) -> Instance {
    let mut instance = Instance::default();
    instance.uuid.load(Some(Uuid::from_u128(uuid)));
    instance.display_name.load(Some(Some("web".into())));
    instance.vm_state.load(Some(Some(VmState::Building)));
    instance
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_files_are_their_owners_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/records.sqlite");
    let records = SqliteRecords::open(&path, "h1").unwrap();
    records.receive(&RequestContext::admin(), message(1)).await.unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&directory.path().join(format!("state/records.sqlite{suffix}"))), 0o600);
    }
    drop(records);

    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    SqliteRecords::open(&path, "h1").unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn an_operator_reads_the_columns_with_sqlite3() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    let records = SqliteRecords::open(&path, "h1").unwrap();
    let context = RequestContext::admin();
    let mut instance = records.receive(&context, message(1)).await.unwrap();
    instance.vm_state.set(Some(VmState::Active));
    instance.power_state.set(Some(1));
    records.save(&context, &mut instance, Expected::Any).await.unwrap();

    let db = Connection::open(&path).unwrap();
    let columns =
        "SELECT id, uuid, display_name, host, vm_state, power_state, deleted FROM instances";
    let row = db.query_row(columns, [], |row| {
        let text = |i| row.get::<_, String>(i);
        Ok((
            row.get::<_, i64>(0)?,
            text(1)?,
            text(2)?,
            text(3)?,
            text(4)?,
            row.get::<_, i64>(5)?,
            row.get::<_, i64>(6)?,
        ))
    });
    let uuid = Uuid::from_u128(1).to_string();
    let expected = (1, uuid, "web".into(), "h1".into(), "active".into(), 1, 0);
    assert_eq!(row.unwrap(), expected);
}

#[tokio::test]
async fn records_outlive_the_agent_and_ids_are_never_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    let context = RequestContext::admin();
    let records = SqliteRecords::open(&path, "h1").unwrap();
    let mut first = records.receive(&context, message(1)).await.unwrap();
    records.destroy(&context, &mut first).await.unwrap();
    let long_ago = "UPDATE instances SET instance = json_set(instance,
        '$.\"nova_object.data\".deleted_at', '2001-01-01T00:00:00Z')";
    records.connection.lock().unwrap().execute(long_ago, []).unwrap();
    drop(records);

    let records = SqliteRecords::open(&path, "h1").unwrap();
    let count = |records: &SqliteRecords| {
        let db = records.connection.lock().unwrap();
        db.query_row("SELECT count(*) FROM instances", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(count(&records), 0, "deleted long ago");
    let second = records.receive(&context, message(2)).await.unwrap();
    assert_eq!(second.id.get(), Some(&2));
}

#[tokio::test]
async fn another_format_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    let records = SqliteRecords::open(&path, "h1").unwrap();
    let newer = "UPDATE schema_version SET version = 99 WHERE part = 'records'";
    records.connection.lock().unwrap().execute(newer, []).unwrap();
    drop(records);
    let error = SqliteRecords::open(&path, "h1").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the records in {} have format 99, this build knows 1", path.display())
    );
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    fs::write(&path, "not a database, but long enough to have a header of its own".repeat(9))
        .unwrap();
    assert!(matches!(SqliteRecords::open(&path, "h1"), Err(OpenError::Sqlite { .. })));
}

#[tokio::test]
async fn unknown_fields_come_back_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    let context = RequestContext::admin();
    let mut primitive = message(1).to_primitive();
    primitive["nova_object.version"] = json!("2.99");
    primitive["nova_object.data"]["novelty"] = json!({"a": [1, null, "ü"]});
    let sent = Instance::from_primitive(&primitive).unwrap();
    SqliteRecords::open(&path, "h1").unwrap().receive(&context, sent).await.unwrap();

    let records = SqliteRecords::open(&path, "h1").unwrap();
    let found = records.instance(&context, Uuid::from_u128(1)).await.unwrap().unwrap();
    let found = found.to_primitive();
    assert_eq!(found["nova_object.version"], "2.99");
    assert_eq!(found["nova_object.data"]["novelty"], json!({"a": [1, null, "ü"]}));
}

#[tokio::test]
async fn an_instance_of_another_host_isnt_listed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.sqlite");
    let context = RequestContext::admin();
    SqliteRecords::open(&path, "h1").unwrap().receive(&context, message(1)).await.unwrap();
    let records = SqliteRecords::open(&path, "h2").unwrap();
    assert_eq!(records.instances(&context, &[]).await.unwrap(), []);
}
