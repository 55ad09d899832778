//! When the pool refused writes.
//!
//! Whoever writes through a page cache does not hear of a refused write, so a layer may be kept only if the pool refused none
//! while it was written. Each look at the pool compares three things of the kernel's:
//!
//! - the pool's status: whether it refuses writes now;
//! - the number of its events: a change of its mode is one, and so is a low water mark, of data or of metadata. No new event, no
//!   lapse. It counts from the assembly of the pool, whoever runs meanwhile;
//! - the kernel's log, which has a line for each of these events and tells them apart ([`PoolNotice`]). The line is there before
//!   the writes that the change refuses have failed.
//!
//! What the last look knew is on record, so what happens while nobody looks is found by the next look as if it had been there.
//! Only where the log cannot be read, or has been overwritten in between, is anything in doubt; then two events that nothing
//! explains count as a lapse: it takes one to begin and one to end it. A pool that queues refuses nothing before its time-out,
//! which is a third.
//!
//! Invariant: a lapse that ended after a snapshot was made is never missed. What is not known to be harmless counts as one.

use crate::dm::{Dm, NoSpacePolicy, Noticed, PoolLog, PoolMode, PoolNotice, ThinPoolStatus};
use crate::names::DmName;
use crate::store::{LapsesRecord, Moment};
use crate::units::DeviceNumber;

/// How often a look is taken again because the pool had an event meanwhile.
const MOST_LOOKS: usize = 20;

/// Whether a write that needs a new block fails.
fn refuses(status: &ThinPoolStatus) -> bool {
    status.working().is_none_or(|status| match status.mode {
        PoolMode::ReadWrite => false,
        // The kernel shows `error_if_no_space` of a pool whose time-out for queueing has passed, too (do_no_space_timeout).
        PoolMode::OutOfDataSpace => status.no_space == NoSpacePolicy::Error,
        PoolMode::ReadOnly => true,
    })
}

/// What of a pool's state decides whether it may have refused writes between two looks that show nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    queues: bool,
    /// Blocks for metadata: one that ran out of them and got more was read-only meanwhile.
    metadata: u64,
}

impl Manner {
    fn of(status: &ThinPoolStatus) -> Option<Manner> {
        let status = status.working()?;
        Some(Manner { queues: status.no_space == NoSpacePolicy::Queue, metadata: status.metadata.total })
    }
}

/// What one look found.
#[derive(Debug)]
struct Look {
    events: u32,
    refuses: bool,
    noticed: Noticed,
    /// The fewest events that can hide a lapse.
    fewest: usize,
    /// This assembly has not been looked at before, so the log may hold lines of an earlier one.
    first: bool,
}

impl Look {
    /// What is known after it, from what was known before.
    fn after(&self, before: &LapsesRecord) -> LapsesRecord {
        let new = self.events.saturating_sub(before.seen.event) as usize;
        let mut notices = self.noticed.notices.as_slice();
        if self.first {
            // Each line is one event, so those of this assembly are the last.
            notices = &notices[notices.len().saturating_sub(new)..];
        }
        let numbered = notices.len() == new;
        let (mut refusing, mut until) = (before.refusing, None);
        for (notice, event) in notices.iter().zip(before.seen.event + 1..) {
            match notice {
                PoolNotice::RefusesWrites => refusing = true,
                PoolNotice::ServesWrites if refusing => {
                    refusing = false;
                    until = Some(if numbered { event } else { self.events });
                }
                PoolNotice::ServesWrites | PoolNotice::LowWater => {}
            }
        }
        if refusing && !self.refuses {
            // The mode changes before the event, so where there is no new event this one is still to come.
            until = Some(if new == 0 { self.events + 1 } else { self.events });
        }
        let unexplained = new.saturating_sub(notices.len());
        if !self.noticed.complete && !self.refuses && unexplained >= self.fewest {
            until = Some(self.events);
        }
        let assembly = before.seen.assembly;
        let until = until.map_or(Moment::default(), |event| Moment { assembly, event });
        LapsesRecord {
            seen: Moment { assembly, event: self.events.max(before.seen.event) },
            log_next: self.noticed.next,
            refusing: self.refuses,
            refused_until: before.refused_until.max(until),
            ..before.clone()
        }
    }
}

/// Looks at a pool, and knows when it refused writes.
#[derive(Debug)]
pub(super) struct Lapses {
    pool: DeviceNumber,
    log: Option<Box<dyn PoolLog>>,
    known: LapsesRecord,
    /// How the pool was at the last look of this run.
    manner: Option<Manner>,
    first: bool,
    /// Events that are not somebody else's.
    own_events: usize,
    /// How many lapses there have been in this run.
    count: u64,
}

impl Lapses {
    /// Goes on from what was on record, if that is about the pool as it is assembled now.
    pub fn new(dm: &Dm, pool: DeviceNumber, events: u32, recorded: LapsesRecord) -> Lapses {
        let device = dm.kernel().incarnation(pool);
        let first = recorded.device != device || events < recorded.seen.event;
        let known = if first { another_assembly(recorded, device) } else { recorded };
        if !first {
            tracing::debug!(?known, "the pool's events are known from the last run");
        }
        Lapses { pool, log: dm.kernel().pool_log(), known, manner: None, first, own_events: 0, count: 0 }
    }

    /// Whether what was made at `moment` may lack some of what was written to it, by all looks so far.
    pub fn refused_since(&self, moment: Moment) -> bool {
        self.known.refusing || moment < self.known.refused_until
    }

    pub fn assembly(&self) -> u64 {
        self.known.seen.assembly
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// At most so many events until the next look are of the caller's own doing, and hide nothing.
    pub fn expect(&mut self, events: usize) {
        self.own_events += events;
    }

    /// Looks at the pool: its status, and what has to be put on record if that has changed.
    pub fn look(&mut self, dm: &Dm, name: &DmName) -> crate::dm::Result<(ThinPoolStatus, Option<LapsesRecord>)> {
        let mut noticed = Noticed { notices: Vec::new(), next: self.known.log_next, complete: self.log.is_some() };
        let (mut status, mut events) = dm.pool_status_and_events(name, true)?;
        for looks in 1.. {
            if let Some(log) = &mut self.log {
                let read = log.read(self.pool, noticed.next);
                noticed.notices.extend(read.notices);
                noticed = Noticed { next: read.next, complete: noticed.complete && read.complete, ..noticed };
            }
            // What was read belongs to what was seen, unless there was an event meanwhile.
            let again = dm.pool_status_and_events(name, true)?;
            let settled = again.1 == events;
            (status, events) = again;
            if settled || looks == MOST_LOOKS {
                noticed.complete &= settled;
                break;
            }
        }
        let manner = Manner::of(&status);
        let queues = manner.is_some_and(|manner| manner.queues) && self.manner == manner;
        let fewest = if queues { 3 } else { 2 } + std::mem::take(&mut self.own_events);
        self.manner = manner;
        let look = Look { events, refuses: refuses(&status), noticed, fewest, first: self.first };
        let after = look.after(&self.known);
        self.first = false;
        let begins = after.refusing && !self.known.refusing;
        let hid = after.refused_until > self.known.refused_until && !self.known.refusing;
        self.count += u64::from(begins || hid);
        let changed = LapsesRecord { log_next: self.known.log_next, ..after.clone() } != self.known;
        let changed = changed || !look.noticed.notices.is_empty();
        self.known = after;
        Ok((status, changed.then(|| self.known.clone())))
    }
}

/// The pool has been taken apart and assembled since the last look. What happened to it between the two is not known, and
/// not held against anybody: what was written then and not synced is lost with the machine, and what was synced was answered.
fn another_assembly(recorded: LapsesRecord, device: String) -> LapsesRecord {
    let seen = Moment { assembly: recorded.seen.assembly + 1, event: 0 };
    let refused_until = if recorded.refusing { seen } else { recorded.refused_until };
    LapsesRecord { seen, device, log_next: 0, refusing: false, refused_until }
}
