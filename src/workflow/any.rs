//! Every workflow behind one type: what the journal gives back at start, and what the queues hold.

use uuid::Uuid;

use super::attach_volume::AttachVolume;
use super::board::Running;
use super::crash_dump::CrashDump;
use super::detach_volume::DetachVolume;
use super::engine::{self, Controls, Workflow};
use super::journal::{Head, Journal, JournalError, Phase, Record, Stored};
use super::pause::Pause;
use super::power_off::PowerOff;
use super::power_on::PowerOn;
use super::quiesce::Quiesce;
use super::reboot::Reboot;
use super::reserve_device::ReserveDevice;
use super::resume::Resume;
use super::set_password::SetPassword;
use super::snapshot::Snapshot;
use super::spawn::Spawn;
use super::suspend::Suspend;
use super::swap_volume::SwapVolume;
use super::terminate::Terminate;
use super::unpause::Unpause;
use super::unquiesce::Unquiesce;
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
                let unreadable = |message: String| JournalError::Unreadable {
                    id: head.id.clone(),
                    message,
                };
                match head.workflow.as_str() {
                    $(<$variant as Workflow>::NAME => {
                        let (context, workflow): (RequestContext, $variant) =
                            serde_json::from_slice(&body).map_err(|e| unreadable(e.to_string()))?;
                        Ok(Record { head, context, workflow }.into())
                    })*
                    other => Err(unreadable(format!("there is no workflow {other}"))),
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
                    $(Self::$variant(record) => engine::turn_away(record, on, running).await),*
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
                        engine::run_apart(record, journal, on, running, controls).await
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
    AttachVolume,
    DetachVolume,
    ReserveDevice,
    SwapVolume
);
