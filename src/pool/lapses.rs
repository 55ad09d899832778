//! Lapses: the times at which the pool refused writes.
//!
//! A program that writes through the page cache is not told of a refused write. So a layer may be
//! kept only if the pool refused no write while it was written. Each look at the pool compares
//! three things that the kernel tells:
//!
//! - the pool's status: whether it refuses writes now;
//! - the number of its events. A change of its mode is an event, and so is a low water mark of data
//!   or metadata. Without a new event there was no lapse. The kernel counts from the assembly of
//!   the pool, also while no daemon runs;
//! - the kernel's log. It has a line for each of these events, which tells them apart
//!   ([`PoolNotice`]). The line is written before a write fails because of the event.
//!
//! What the last look knew is on record. So the next look finds what happened meanwhile, even if no
//! daemon ran. Only if the log cannot be read, or was overwritten, there is doubt. Then two events
//! without a line count as a lapse: one begins it and one ends it. On a pool that queues it takes
//! three, because such a pool refuses no write before its time-out, which is an event too.
//!
//! Invariant: a lapse that ended after a snapshot was made is never missed. What is not known to be
//! harmless counts as a lapse.

use crate::dm::{
    Dm, NoSpacePolicy, Noticed, PoolLog, PoolMode, PoolNotice, StatusOptions, ThinPoolStatus,
};
use crate::names::DmName;
use crate::store::{LapsesRecord, Moment};
use crate::units::DeviceNumber;

/// How often a look is repeated because the pool had an event meanwhile.
const MOST_LOOKS: usize = 20;

/// Whether a write that needs a new block fails.
fn refuses(status: &ThinPoolStatus) -> bool {
    status.working().is_none_or(|status| match status.mode {
        PoolMode::ReadWrite => false,
        // The kernel shows `error_if_no_space` also for a pool whose time-out for queueing has
        // passed (do_no_space_timeout).
        PoolMode::OutOfDataSpace => status.no_space == NoSpacePolicy::Error,
        PoolMode::ReadOnly => true,
    })
}

/// The part of a pool's state that decides whether it may have refused writes between two looks
/// that both find it well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    queues: bool,
    /// The number of metadata blocks. A pool that used all of them and got more was read-only
    /// meanwhile.
    metadata: u64,
}

impl Manner {
    fn of(status: &ThinPoolStatus) -> Option<Manner> {
        let status = status.working()?;
        Some(Manner {
            queues: status.no_space == NoSpacePolicy::Queue,
            metadata: status.metadata.total,
        })
    }
}

/// The findings of one look.
#[derive(Debug)]
struct Look {
    events: u32,
    refuses: bool,
    noticed: Noticed,
    /// The fewest events that can contain a lapse.
    fewest: usize,
    /// Whether this is the first look at this assembly, so that the log may have lines of an
    /// earlier one.
    first: bool,
}

impl Look {
    /// How many events have no line in the log.
    fn unexplained(&self, before: &LapsesRecord) -> usize {
        (self.events.saturating_sub(before.seen.event) as usize)
            .saturating_sub(self.noticed.notices.len())
    }

    /// What is known after this look, from what was known before.
    fn after(&self, before: &LapsesRecord) -> LapsesRecord {
        let new = self.events.saturating_sub(before.seen.event) as usize;
        let mut notices = self.noticed.notices.as_slice();
        if self.first {
            // Each line is one event, so the lines of this assembly are the last ones.
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
            // The mode changes before the event is counted. So without a new event, that event is
            // still to come.
            until = Some(if new == 0 { self.events + 1 } else { self.events });
        }
        if !self.noticed.complete && !self.refuses && self.unexplained(before) >= self.fewest {
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
pub struct Lapses {
    pool: DeviceNumber,
    log: Option<Box<dyn PoolLog>>,
    known: LapsesRecord,
    /// From the last look of this run.
    manner: Option<Manner>,
    first: bool,
    /// Events since the last look that the daemon itself caused.
    own_events: usize,
    /// The lapses of this run.
    count: u64,
}

impl Lapses {
    /// Continues from what was on record, if that is about this assembly of the pool.
    pub fn new(dm: &Dm, pool: DeviceNumber, events: u32, recorded: LapsesRecord) -> Lapses {
        let device = dm.kernel().incarnation(pool);
        let first = recorded.device != device || events < recorded.seen.event;
        let known = if first { another_assembly(recorded, device) } else { recorded };
        let log = dm.kernel().pool_log();
        if log.is_none() {
            tracing::warn!(
                "the kernel's log (/dev/kmsg) cannot be read, so two low water marks of the pool \
                 close together look like a lapse; give the daemon /dev/kmsg and CAP_SYSLOG"
            );
        }
        Lapses { pool, log, known, manner: None, first, own_events: 0, count: 0 }
    }

    /// Whether a snapshot that was made at `moment` may lack writes, by all looks so far.
    pub fn refused_since(&self, moment: Moment) -> bool {
        self.known.refusing || moment < self.known.refused_until
    }

    pub fn assembly(&self) -> u64 {
        self.known.seen.assembly
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Tells that the caller causes up to this many events before the next look. They are no sign
    /// of a lapse.
    pub fn expect(&mut self, events: usize) {
        self.own_events += events;
    }

    /// Looks at the pool. Returns its status, and what has to be put on record, if that has
    /// changed.
    pub fn look(
        &mut self,
        dm: &Dm,
        name: &DmName,
    ) -> crate::dm::Result<(ThinPoolStatus, Option<LapsesRecord>)> {
        let mut noticed = Noticed {
            notices: Vec::new(),
            next: self.known.log_next,
            complete: self.log.is_some(),
        };
        let (mut status, mut events) = dm.pool_status_and_events(name, StatusOptions::NO_FLUSH)?;
        for looks in 1.. {
            if let Some(log) = &mut self.log {
                let read = log.read(self.pool, noticed.next);
                noticed.notices.extend(read.notices);
                noticed = Noticed {
                    next: read.next,
                    complete: noticed.complete && read.complete,
                    ..noticed
                };
            }
            // Without an event meanwhile, the log and the status are of the same moment.
            let again = dm.pool_status_and_events(name, StatusOptions::NO_FLUSH)?;
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
        let unexplained = look.unexplained(&self.known);
        if unexplained > 0 && !look.noticed.complete {
            tracing::info!(
                pool = %name,
                unexplained,
                "the kernel's log does not say what some events of the pool were"
            );
        }
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

/// What is known of a pool that has been taken apart and assembled since the last look. What
/// happened between the two is not known, and counts as no lapse: writes that were not synced are
/// lost with the machine, and a sync would have reported the refused ones.
fn another_assembly(recorded: LapsesRecord, device: String) -> LapsesRecord {
    let seen = Moment { assembly: recorded.seen.assembly + 1, event: 0 };
    let refused_until = if recorded.refusing { seen } else { recorded.refused_until };
    LapsesRecord { seen, device, log_next: 0, refusing: false, refused_until }
}

#[cfg(test)]
mod tests {
    use super::PoolNotice::{LowWater, RefusesWrites, ServesWrites};
    use super::*;

    const NONE: [u32; 0] = [];

    /// A pool, as a series of looks sees it.
    struct Story {
        known: LapsesRecord,
        first: bool,
    }

    /// What one look finds: the number of events, whether writes are refused, and the lines of the
    /// log. `None` is a log that cannot be read, or was overwritten.
    type Found<'a> = (u32, bool, Option<&'a [PoolNotice]>);

    impl Story {
        fn new() -> Story {
            Story { known: another_assembly(LapsesRecord::default(), "first".into()), first: false }
        }

        fn look_with(&mut self, (events, refuses, lines): Found<'_>, fewest: usize) -> &mut Story {
            let notices = lines.unwrap_or_default().to_vec();
            let noticed = Noticed { next: self.known.log_next, notices, complete: lines.is_some() };
            self.known =
                Look { events, refuses, noticed, fewest, first: self.first }.after(&self.known);
            self.first = false;
            self
        }

        fn look(&mut self, found: Found<'_>) -> &mut Story {
            self.look_with(found, 2)
        }

        fn reboot(&mut self) -> &mut Story {
            self.known = another_assembly(self.known.clone(), "another".into());
            self.first = true;
            self
        }

        /// The event numbers up to 12 for which a snapshot that was made then is refused now.
        fn refused(&self) -> Vec<u32> {
            let assembly = self.known.seen.assembly;
            (0..=12).filter(|&event| self.refuses(Moment { assembly, event })).collect()
        }

        fn refuses(&self, moment: Moment) -> bool {
            self.known.refusing || moment < self.known.refused_until
        }
    }

    /// The event numbers for which a snapshot is refused after these looks.
    #[track_caller]
    fn refused(looks: &[Found<'_>]) -> Vec<u32> {
        let mut story = Story::new();
        for look in looks {
            story.look(*look);
        }
        story.refused()
    }

    #[test]
    fn what_was_there_before_a_lapse_ended_is_refused_and_nothing_else() {
        let seen =
            [(2, true, Some(&[LowWater, RefusesWrites][..])), (3, false, Some(&[ServesWrites]))];
        assert_eq!(refused(&seen), [0, 1, 2]);
        assert_eq!(refused(&seen[..1]).len(), 13, "while it lasts, everything");
        let more = [(4, false, Some(&[LowWater][..])), (9, false, Some(&[LowWater; 5]))];
        assert_eq!(
            refused(&[seen.as_slice(), &more].concat()),
            [0, 1, 2],
            "a snapshot keeps its due, too"
        );
    }

    #[test]
    fn a_lapse_that_nobody_saw_is_in_the_log() {
        let unseen: &[PoolNotice] = &[LowWater, RefusesWrites, ServesWrites, LowWater];
        assert_eq!(refused(&[(4, false, Some(unseen))]), [0, 1, 2]);
        // The last line may not be there yet, and an event without a line is a rename.
        assert_eq!(refused(&[(3, false, Some(&unseen[..2]))]), [0, 1, 2]);
        assert_eq!(
            refused(&[(5, false, Some(&unseen[..3]))]),
            [0, 1, 2, 3, 4],
            "not known how long it lasted"
        );
        // A line that is late comes without an event of its own.
        assert_eq!(refused(&[(1, false, Some(&[])), (1, false, Some(&[RefusesWrites]))]), [0, 1]);
    }

    #[test]
    fn events_that_are_no_lapse_refuse_nobody_however_many() {
        assert_eq!(refused(&[(12, false, Some(&[LowWater; 12]))]), NONE);
        // A full pool that queues, and is made larger.
        assert_eq!(
            refused(&[(12, false, Some(&[LowWater, ServesWrites, ServesWrites].repeat(4)))]),
            NONE
        );
    }

    #[test]
    fn without_the_log_two_unexplained_events_are_in_doubt_and_one_is_not() {
        assert_eq!(refused(&[(1, false, None), (2, false, None), (3, false, None)]), NONE);
        assert_eq!(refused(&[(1, false, None), (3, false, None)]), [0, 1, 2]);
        assert_eq!(refused(&[(1, true, None), (2, false, None)]), [0, 1]);
        // Part of the log was overwritten; what is left explains enough, or is a lapse.
        let mut story = Story::new();
        let part = Noticed { notices: vec![LowWater], next: 9, complete: false };
        let look = |events, noticed: &Noticed| {
            let noticed = noticed.clone();
            Look { events, refuses: false, noticed, fewest: 2, first: false }
        };
        story.known = look(2, &part).after(&story.known);
        assert_eq!(story.refused(), NONE);
        story.known = look(5, &part).after(&story.known);
        assert_eq!(story.refused(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_pool_that_queues_hides_a_lapse_in_three_events_at_the_least() {
        assert_eq!(Story::new().look_with((2, false, None), 3).refused(), NONE);
        assert_eq!(Story::new().look_with((3, false, None), 3).refused(), [0, 1, 2]);
    }

    #[test]
    fn a_mode_that_has_changed_and_not_been_told_yet_ends_with_the_event_to_come() {
        // A snapshot made at event 1 was made while writes were refused.
        assert_eq!(refused(&[(1, true, Some(&[RefusesWrites])), (1, false, Some(&[]))]), [0, 1]);
    }

    #[test]
    fn a_lapse_is_remembered_over_reboots_and_new_snapshots_are_not_held_to_it() {
        let mut story = Story::new();
        story.look((2, true, Some(&[LowWater, RefusesWrites]))).reboot();
        assert!(story.refuses(Moment { assembly: 1, event: 2 }), "it was full until the end");
        assert_eq!(story.refused(), NONE);
        story.look((0, false, Some(&[]))).reboot().look((1, false, Some(&[LowWater])));
        assert!(story.refuses(Moment { assembly: 1, event: 2 }));
        assert!(!story.refuses(Moment { assembly: 2, event: 0 }));
        assert!(story.refuses(Moment::default()), "one that does not say when it was made");
        assert_eq!(story.refused(), NONE);
    }

    #[test]
    fn lines_of_an_earlier_pool_with_this_number_are_not_this_ones() {
        let mut story = Story::new();
        story.reboot().look((1, false, Some(&[RefusesWrites, ServesWrites, LowWater])));
        assert_eq!(story.refused(), NONE);
        // There is no telling where they end, so the last ones count.
        let mut story = Story::new();
        story.reboot().look((2, false, Some(&[LowWater, RefusesWrites, ServesWrites])));
        assert_eq!(story.refused(), [0, 1]);
    }
}
