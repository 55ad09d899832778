//! Threads that remove several devices at the same time, and do not wait for a device that hangs.
//!
//! A removal or a discard cannot be interrupted, and one that waits for a disk may never end. The
//! other jobs then go on without it on further threads, up to a limit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The largest number of threads, including those that hang.
const MOST: usize = 32;
/// How often it is checked whether the reclaimer must stop.
const TICK: Duration = Duration::from_millis(50);

/// One job for a thread.
pub type Job<T> = Box<dyn FnOnce() -> T + Send>;

type Queue<T> = Arc<Mutex<VecDeque<(usize, Job<T>)>>>;

/// Runs jobs on threads.
#[derive(Debug)]
pub struct Crew {
    /// How many jobs run at the same time. With one, they run on the caller's thread.
    workers: usize,
    /// If no job ends for this long, the jobs under way count as hanging.
    patience: Duration,
    alive: Arc<AtomicUsize>,
}

impl Crew {
    pub fn new(workers: usize, patience: Duration) -> Crew {
        Crew { workers, patience, alive: Arc::default() }
    }

    /// Runs the jobs, and returns the results in the order of the jobs. The result is `None` for a
    /// job that was not begun, because of a stop or for lack of threads, and for a job that hangs.
    /// A job that hangs goes on, and its result is dropped.
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
                // The jobs under way hang: other threads do the rest.
                Err(_) if hire() > 0 => last = Instant::now(),
                Err(_) => {
                    clear(&queue);
                    break;
                }
            }
        }
        results
    }

    /// Starts one more thread for the jobs of a queue, unless there are too many.
    fn hire<T: Send + 'static>(&self, queue: &Queue<T>, sender: &mpsc::Sender<(usize, T)>) -> bool {
        let alive = Alive::one_of(&self.alive);
        if self.alive.load(Ordering::SeqCst) > MOST {
            return false;
        }
        let (queue, sender) = (Arc::clone(queue), sender.clone());
        let work = move || {
            let _alive = alive;
            while let Some((index, job)) = {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                next
            } {
                // The caller may have stopped waiting.
                let _ = sender.send((index, job()));
            }
        };
        thread::Builder::new().name("reclaim".into()).spawn(work).is_ok()
    }
}

fn queued<T>(queue: &Queue<T>) -> usize {
    queue.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Removes the jobs that have not been begun, and returns their number.
fn clear<T>(queue: &Queue<T>) -> usize {
    std::mem::take(&mut *queue.lock().unwrap_or_else(PoisonError::into_inner)).len()
}

/// Counts a thread until it ends, also by a panic.
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
