//! What a guest has read of a volume and written to it. nova: objects/volume_usage.py

use super::VolumeUsage;
use crate::model::time::Timestamp;

impl VolumeUsage {
    /// When it was counted last.
    pub fn last_refreshed(&self) -> Option<Timestamp> {
        let (total, current) =
            (self.tot_last_refreshed.value().copied(), self.curr_last_refreshed.value().copied());
        total.max(current)
    }

    /// (reads, bytes read, writes, bytes written) in all.
    pub fn sums(&self) -> [i64; 4] {
        [
            (&self.tot_reads, &self.curr_reads),
            (&self.tot_read_bytes, &self.curr_read_bytes),
            (&self.tot_writes, &self.curr_writes),
            (&self.tot_write_bytes, &self.curr_write_bytes),
        ]
        .map(|(total, current)| {
            let count = |field: Option<&i64>| field.copied().unwrap_or(0);
            count(total.get()).saturating_add(count(current.get()))
        })
    }
}
