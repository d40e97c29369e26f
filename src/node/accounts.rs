//! The ledger: which instances the node has promised how much, as they are claimed and given back
//! and as audits find them. In memory, and without I/O.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::record::Accounts;
use super::usage::{Tracked, Usage};
use crate::model::object::Instance;

/// A moment in the ledger's life. What is entered after an audit began isn't in what it read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// A claim is entered before the instance's record names this node, and given back before the record
/// forgets it: so many audits believe the ledger when the record disagrees. After that the record is
/// right: somebody else has written it.
const PATIENCE: u32 = 2;

#[derive(Debug, Default)]
pub struct Ledger {
    now: Moment,
    instances: BTreeMap<Uuid, Entry>,
    /// Instances that were given back, until their records say so too.
    gone: BTreeMap<Uuid, Doubt>,
    moves: BTreeMap<Uuid, Usage>,
    failed_builds: u64,
}

#[derive(Debug)]
struct Entry {
    tracked: Tracked,
    /// Whether an audit has found the instance's record to name this node.
    confirmed: bool,
    doubt: Doubt,
}

/// What the ledger says since `since`, and how many audits have read otherwise.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Moment,
    audits: u32,
}

impl Doubt {
    /// Whether the ledger is to be believed against what an audit read that began at `began`.
    fn holds(&mut self, began: Moment) -> bool {
        if self.since > began {
            return true;
        }
        self.audits += 1;
        self.audits <= PATIENCE
    }
}

impl Ledger {
    fn tick(&mut self) -> Moment {
        self.now.0 += 1;
        self.now
    }

    /// Sets aside what the instance takes; a repeat takes nothing twice.
    pub fn claim(&mut self, uuid: Uuid, instance: Tracked) {
        let doubt = Doubt { since: self.tick(), audits: 0 };
        self.gone.remove(&uuid);
        self.instances.insert(uuid, Entry { tracked: instance, confirmed: false, doubt });
    }

    /// Gives it back. Whether there was anything.
    pub fn release(&mut self, uuid: Uuid) -> bool {
        let doubt = Doubt { since: self.tick(), audits: 0 };
        self.gone.insert(uuid, doubt);
        self.moves.remove(&uuid);
        self.instances.remove(&uuid).is_some()
    }

    /// Takes note of the instance's states, if it is one of the node's. Whether that changed them.
    pub fn note(&mut self, uuid: Uuid, instance: &Instance) -> bool {
        let since = self.tick();
        let Some(entry) = self.instances.get_mut(&uuid) else { return false };
        let before = entry.tracked.clone();
        entry.tracked.update(instance);
        entry.doubt.since = since;
        entry.tracked != before
    }

    /// nova: compute/stats.py, `build_failed`, `build_succeeded`
    pub fn count_build(&mut self, succeeded: bool) {
        self.failed_builds = if succeeded { 0 } else { self.failed_builds.saturating_add(1) };
    }

    /// An audit begins: pass what is returned to [`settle`](Self::settle).
    pub fn begin_audit(&mut self) -> Moment {
        self.tick()
    }

    /// An audit has read which instances the node has, and which are on the move. What was entered
    /// since it began stays as it was entered.
    pub fn settle(
        &mut self,
        began: Moment,
        found: BTreeMap<Uuid, Tracked>,
        moves: BTreeMap<Uuid, Usage>,
    ) {
        self.gone.retain(|uuid, doubt| match found.contains_key(uuid) {
            true => doubt.holds(began),
            false => doubt.since > began,
        });
        self.instances.retain(|uuid, entry| match found.contains_key(uuid) {
            true => entry.doubt.since > began,
            false if entry.confirmed => entry.doubt.since > began,
            false => entry.doubt.holds(began),
        });
        for (uuid, tracked) in found {
            if self.gone.contains_key(&uuid) {
                continue;
            }
            let doubt = Doubt { since: began, audits: 0 };
            let entry = self.instances.entry(uuid);
            entry.or_insert(Entry { tracked, confirmed: true, doubt }).confirmed = true;
        }
        self.moves = moves;
        self.moves.retain(|uuid, _| !self.gone.contains_key(uuid));
    }

    /// The instance, if an audit has found it to be the node's.
    pub fn confirmed(&self, uuid: Uuid) -> Option<&Tracked> {
        let entry = self.instances.get(&uuid).filter(|entry| entry.confirmed);
        entry.map(|entry| &entry.tracked)
    }

    pub fn accounts(&self) -> Accounts {
        Accounts {
            instances: self.instances.values().map(|entry| entry.tracked.clone()).collect(),
            moves: self.moves.values().cloned().collect(),
            failed_builds: self.failed_builds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::TaskState;
    use crate::node::usage::tests::instance;

    fn tracked() -> Tracked {
        Tracked::new(&instance(1), false).unwrap()
    }

    fn uuids(ledger: &Ledger) -> Vec<u128> {
        ledger.instances.keys().map(Uuid::as_u128).collect()
    }

    fn found(numbers: &[u128]) -> BTreeMap<Uuid, Tracked> {
        numbers.iter().map(|number| (Uuid::from_u128(*number), tracked())).collect()
    }

    #[test]
    fn what_happens_during_an_audit_is_believed_rather_than_what_it_read() {
        let mut ledger = Ledger::default();
        for number in [1, 2, 3] {
            ledger.claim(Uuid::from_u128(number), tracked());
        }
        let began = ledger.begin_audit();
        // The records were read here: 1, 2 and 3 are there, 4 is not yet.
        ledger.claim(Uuid::from_u128(4), tracked());
        ledger.release(Uuid::from_u128(2));
        let mut noted = instance(3);
        noted.task_state.set(Some(TaskState::PoweringOff));
        ledger.note(Uuid::from_u128(3), &noted);
        ledger.settle(began, found(&[1, 2, 3]), BTreeMap::new());
        assert_eq!(uuids(&ledger), [1, 3, 4]);
        let three = ledger.confirmed(Uuid::from_u128(3)).unwrap();
        assert_eq!(three.task_state, Some(TaskState::PoweringOff));
    }

    fn audit(ledger: &mut Ledger, numbers: &[u128]) -> Vec<u128> {
        let began = ledger.begin_audit();
        ledger.settle(began, found(numbers), BTreeMap::new());
        uuids(ledger)
    }

    #[test]
    fn a_record_may_lag_behind_the_ledger_for_a_while() {
        let mut ledger = Ledger::default();
        ledger.claim(Uuid::from_u128(1), tracked());
        ledger.claim(Uuid::from_u128(2), tracked());
        ledger.release(Uuid::from_u128(2));
        for _ in 0..PATIENCE {
            assert_eq!(audit(&mut ledger, &[2, 3]), [1, 3]);
        }
        assert_eq!(audit(&mut ledger, &[2, 3]), [2, 3], "somebody else has written the records");
        assert_eq!(audit(&mut ledger, &[3]), [3]);
        assert!(ledger.gone.is_empty());
    }

    #[test]
    fn what_was_confirmed_goes_with_its_record() {
        let mut ledger = Ledger::default();
        ledger.claim(Uuid::from_u128(1), tracked());
        assert_eq!(audit(&mut ledger, &[1]), [1]);
        assert_eq!(audit(&mut ledger, &[]), [0; 0]);
        ledger.release(Uuid::from_u128(1));
        assert_eq!(audit(&mut ledger, &[]), [0; 0]);
        assert!(ledger.gone.is_empty());
    }

    #[test]
    fn a_repeat_changes_nothing() {
        let mut ledger = Ledger::default();
        let uuid = Uuid::from_u128(1);
        ledger.claim(uuid, tracked());
        ledger.claim(uuid, tracked());
        assert_eq!(ledger.accounts().instances.len(), 1);
        assert!(!ledger.note(uuid, &instance(1)));
        assert!(ledger.release(uuid) && !ledger.release(uuid));
        assert!(!ledger.note(uuid, &instance(1)), "it isn't the node's any more");
        assert_eq!(ledger.accounts(), Accounts::default());
    }

    #[test]
    fn a_build_that_works_forgets_those_that_failed() {
        let mut ledger = Ledger::default();
        ledger.count_build(false);
        ledger.count_build(false);
        assert_eq!(ledger.accounts().failed_builds, 2);
        ledger.count_build(true);
        assert_eq!(ledger.accounts().failed_builds, 0);
    }
}
