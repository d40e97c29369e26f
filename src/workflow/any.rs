//! Every workflow behind one type: what the journal gives back at start, and what the queues hold.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::attach_interface::AttachInterface;
use super::attach_volume::AttachVolume;
use super::board::Running;
use super::crash_dump::CrashDump;
use super::detach_interface::DetachInterface;
use super::detach_volume::DetachVolume;
use super::engine::{self, Controls, Workflow};
use super::fixed_ip::FixedIp;
use super::journal::{Head, Journal, JournalError, Phase, Record, Stored};
use super::pause::Pause;
use super::power_off::PowerOff;
use super::power_on::PowerOn;
use super::quiesce::Quiesce;
use super::reboot::Reboot;
use super::rebuild::Rebuild;
use super::remove_connection::RemoveConnection;
use super::rescue::Rescue;
use super::reserve_device::ReserveDevice;
use super::resume::Resume;
use super::set_password::SetPassword;
use super::shelve::Shelve;
use super::shelve_offload::ShelveOffload;
use super::snapshot::Snapshot;
use super::soft_delete::SoftDelete;
use super::spawn::Spawn;
use super::suspend::Suspend;
use super::swap_volume::SwapVolume;
use super::terminate::Terminate;
use super::unpause::Unpause;
use super::unquiesce::Unquiesce;
use super::unrescue::Unrescue;
use super::unshelve::Unshelve;
use super::{Backends, StepError, StepResult};
use crate::model::context::RequestContext;
use crate::model::object::Instance;
use crate::model::time::Timestamp;

impl<W: Workflow> Record<W> {
    /// A record that waits for its turn. `id` is the message's `_unique_id`.
    pub fn queued(id: String, instance_uuid: Uuid, context: RequestContext, workflow: W) -> Self {
        let head = Head {
            id,
            workflow: W::NAME.to_owned(),
            instance_uuid,
            request_id: context.request_id().to_owned(),
            phase: Phase::Queued,
            next: 0,
            failure: None,
            undo_failure: None,
            started_at: Timestamp::now(),
            settled: false,
        };
        Self { head, context, workflow }
    }
}

/// Reads a record of one workflow. In a function of its own: one that read them all would have room on
/// its stack for each.
#[inline(never)]
fn open<W: Workflow>(head: Head, body: &[u8]) -> Result<Box<Record<W>>, JournalError> {
    match serde_json::from_slice::<(RequestContext, W)>(body) {
        Ok((context, workflow)) => Ok(Box::new(Record { head, context, workflow })),
        Err(error) => Err(unreadable(&head, error.to_string())),
    }
}

type Ran<'a> = BoxFuture<'a, Result<Option<StepError>, JournalError>>;

/// [`engine::run`] on the heap: see [`open`].
#[inline(never)]
fn run<'a, W: Workflow>(
    record: &'a mut Record<W>,
    journal: &'a dyn Journal,
    on: &'a Backends,
    running: &'a Running,
    controls: &'a Controls,
) -> Ran<'a> {
    engine::run(record, journal, on, running, controls).boxed()
}

/// [`engine::turn_away`] on the heap: see [`open`].
#[inline(never)]
fn turn_away<'a, W: Workflow>(
    record: &'a mut Record<W>,
    on: &'a Backends,
    running: &'a Running,
) -> BoxFuture<'a, StepResult> {
    engine::turn_away(record, on, running).boxed()
}

fn unreadable(head: &Head, message: String) -> JournalError {
    JournalError::Unreadable { id: head.id.clone(), message }
}

macro_rules! workflows {
    ($($variant:ident),* $(,)?) => {
        /// A record of any workflow.
        #[derive(Debug, Clone)]
        pub enum AnyRecord { $($variant(Box<Record<$variant>>)),* }

        $(impl From<Record<$variant>> for AnyRecord {
            fn from(record: Record<$variant>) -> Self {
                Self::$variant(Box::new(record))
            }
        })*

        impl AnyRecord {
            /// Reads a record that the journal kept.
            ///
            /// # Errors
            /// [`JournalError::Unreadable`] for a workflow this build doesn't know, or another body.
            pub fn open(stored: Stored) -> Result<Self, JournalError> {
                let Stored { head, body } = stored;
                match head.workflow.as_str() {
                    $(<$variant as Workflow>::NAME => open(head, &body).map(Self::$variant),)*
                    other => {
                        let message = format!("there is no workflow {other}");
                        Err(unreadable(&head, message))
                    }
                }
            }

            pub fn head(&self) -> &Head {
                match self { $(Self::$variant(record) => &record.head),* }
            }

            pub fn head_mut(&mut self) -> &mut Head {
                match self { $(Self::$variant(record) => &mut record.head),* }
            }

            pub fn context(&self) -> &RequestContext {
                match self { $(Self::$variant(record) => &record.context),* }
            }

            /// The instance as the message or the record has it.
            pub fn instance_mut(&mut self) -> &mut Instance {
                match self { $(Self::$variant(record) => &mut record.workflow.subject.instance),* }
            }

            /// The event of the instance's action.
            pub fn event(&self) -> &str {
                match self { $(Self::$variant(record) => &record.workflow.subject.event),* }
            }

            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$variant as Workflow>::NAME),* }
            }

            pub fn steps(&self) -> usize {
                match self { $(Self::$variant(_) => <$variant as Workflow>::STEPS.len()),* }
            }

            /// See [`engine::body`].
            ///
            /// # Errors
            /// [`JournalError::Unreadable`].
            pub fn body(&self) -> Result<Vec<u8>, JournalError> {
                match self { $(Self::$variant(record) => engine::body(record)),* }
            }

            /// See [`engine::turn_away`].
            ///
            /// # Errors
            /// The workflow's.
            pub async fn turn_away(&mut self, on: &Backends, running: &Running) -> StepResult {
                match self {
                    $(Self::$variant(record) => turn_away(record, on, running).await),*
                }
            }

            /// See [`engine::run`].
            ///
            /// # Errors
            /// [`JournalError`].
            pub async fn run(
                &mut self,
                journal: &dyn Journal,
                on: &Backends,
                running: &Running,
                controls: &Controls,
            ) -> Result<Option<StepError>, JournalError> {
                match self {
                    $(Self::$variant(record) => {
                        run(record, journal, on, running, controls).await
                    })*
                }
            }
        }
    };
}

workflows!(
    Spawn,
    Terminate,
    PowerOff,
    PowerOn,
    Reboot,
    Pause,
    Unpause,
    Suspend,
    Resume,
    Snapshot,
    Quiesce,
    Unquiesce,
    SetPassword,
    CrashDump,
    SoftDelete,
    Rescue,
    Unrescue,
    Rebuild,
    Shelve,
    ShelveOffload,
    Unshelve,
    AttachVolume,
    DetachVolume,
    ReserveDevice,
    AttachInterface,
    DetachInterface,
    FixedIp,
    SwapVolume,
    RemoveConnection
);
