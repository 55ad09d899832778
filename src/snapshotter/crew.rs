//! Threads that take devices away side by side, and are not waited for when the kernel holds one of
//! them up.
//!
//! A removal or a discard cannot be interrupted, and one that waits for a disk may wait for good.
//! Then the others go on without it, on further threads, of which there is a limit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Threads at the most, those that are held up among them.
const MOST: usize = 32;
/// How often a stop is looked for while nothing else happens.
const TICK: Duration = Duration::from_millis(50);

/// What a thread is to do.
pub type Job<T> = Box<dyn FnOnce() -> T + Send>;

type Queue<T> = Arc<Mutex<VecDeque<(usize, Job<T>)>>>;

/// Does jobs.
#[derive(Debug)]
pub struct Crew {
    /// How many jobs are done side by side; with one, they are done by whoever asks, one after the
    /// other.
    workers: usize,
    /// Without a result for that long, those at work count as held up.
    patience: Duration,
    alive: Arc<AtomicUsize>,
}

impl Crew {
    pub fn new(workers: usize, patience: Duration) -> Crew {
        Crew { workers, patience, alive: Arc::default() }
    }

    /// Results in the jobs' order. `None` for a job that was not begun, because it was time to stop
    /// or no thread was left for it, and for one that is held up: it goes on, and nobody hears of
    /// its result.
    pub fn run<T: Send + 'static>(
        &self,
        jobs: Vec<Job<T>>,
        stopping: impl Fn() -> bool,
    ) -> Vec<Option<T>> {
        if self.workers <= 1 || jobs.is_empty() {
            return jobs.into_iter().map(|job| (!stopping()).then(job)).collect();
        }
        let mut results: Vec<Option<T>> = jobs.iter().map(|_| None).collect();
        let mut wanted = results.len();
        let queue: Queue<T> = Arc::new(Mutex::new(jobs.into_iter().enumerate().collect()));
        let (sender, done) = mpsc::channel();
        let hire =
            || (0..self.workers.min(queued(&queue))).filter(|_| self.hire(&queue, &sender)).count();
        if hire() == 0 {
            return results;
        }
        let (mut received, mut last) = (0, Instant::now());
        while received < wanted {
            match done.recv_timeout(TICK) {
                Ok((index, result)) => {
                    results[index] = Some(result);
                    (received, last) = (received + 1, Instant::now());
                }
                Err(_) if stopping() && queued(&queue) > 0 => wanted -= clear(&queue),
                Err(_) if last.elapsed() < self.patience => {}
                // Held up: others do what has not been begun.
                Err(_) if hire() > 0 => last = Instant::now(),
                Err(_) => {
                    clear(&queue);
                    break;
                }
            }
        }
        results
    }

    /// One more thread for the jobs of a queue, if that is not one too many.
    fn hire<T: Send + 'static>(&self, queue: &Queue<T>, sender: &mpsc::Sender<(usize, T)>) -> bool {
        let alive = Alive::one_of(&self.alive);
        if self.alive.load(Ordering::SeqCst) > MOST {
            return false;
        }
        let (queue, sender) = (Arc::clone(queue), sender.clone());
        let work = move || {
            let _alive = alive;
            while let Some((index, job)) = {
                let next = queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front();
                next
            } {
                // Nobody may be waiting for it any more.
                let _ = sender.send((index, job()));
            }
        };
        thread::Builder::new().name("reclaim".into()).spawn(work).is_ok()
    }
}

fn queued<T>(queue: &Queue<T>) -> usize {
    queue.lock().unwrap_or_else(|e| e.into_inner()).len()
}

/// Takes back what has not been begun; how many jobs that is.
fn clear<T>(queue: &Queue<T>) -> usize {
    std::mem::take(&mut *queue.lock().unwrap_or_else(|e| e.into_inner())).len()
}

/// Counts a thread as long as it lives, however it ends.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn one_of(count: &Arc<AtomicUsize>) -> Alive {
        count.fetch_add(1, Ordering::SeqCst);
        Alive(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    fn boxed<T>(job: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        Box::new(job)
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_whatever_thread_did_them() {
        for workers in [1, 8] {
            let crew = Crew::new(workers, Duration::from_secs(60));
            let results = crew.run((0..1000).map(|n| boxed(move || n * 2)).collect(), || false);
            assert_eq!(results, (0..1000).map(|n| Some(n * 2)).collect::<Vec<_>>());
            assert!(crew.run(Vec::<Job<()>>::new(), || false).is_empty());
        }
    }

    #[test]
    fn what_hangs_holds_nothing_else_up_and_leaves_a_limited_number_of_threads() {
        let crew = Crew::new(8, PATIENCE);
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let job = |n: usize| {
            let held = Arc::clone(&held);
            boxed(move || {
                if n.is_multiple_of(10) {
                    let _ = held.lock().unwrap_or_else(|e| e.into_inner()).recv();
                }
                n
            })
        };
        // Ten of a hundred hang, more than there are workers.
        let results = crew.run((0..100).map(job).collect(), || false);
        for (n, result) in results.into_iter().enumerate() {
            assert_eq!(result, (!n.is_multiple_of(10)).then_some(n));
        }
        // All of these hang.
        for _ in 0..20 {
            assert_eq!(
                crew.run((0..100).map(|n| job(n * 10)).collect(), || false),
                vec![None; 100]
            );
            assert!(crew.alive.load(Ordering::SeqCst) <= MOST);
        }
        drop(release);
        let end = Instant::now() + Duration::from_secs(60);
        while crew.alive.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < end, "threads are left behind");
            thread::sleep(TICK);
        }
        assert_eq!(crew.run((0..100).map(job).collect(), || false).len(), 100);
    }

    #[test]
    fn a_stop_lets_what_was_begun_end_and_begins_nothing_else() {
        let crew = Crew::new(2, Duration::from_secs(60));
        let begun = Arc::new(AtomicUsize::new(0));
        let job = |_| {
            let begun = Arc::clone(&begun);
            boxed(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                thread::sleep(4 * TICK);
            })
        };
        let results = crew.run((0..100).map(job).collect(), || begun.load(Ordering::SeqCst) > 0);
        let done = results.iter().flatten().count();
        assert_eq!(done, begun.load(Ordering::SeqCst));
        assert!(done < 10, "{done} were begun");
    }
}
