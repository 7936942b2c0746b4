//! Independent pieces of work on several threads, such as replays of a trace through many policies.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// How many threads to work on unless told otherwise: one for each processor that there is for us.
pub fn processors() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What a thread says of its piece.
enum Told<R> {
    /// This part of it is done, from 0 to 1.
    Part(f64),
    Done(R),
}

/// Does `work` on each item, on so many threads at the most; on the calling one if it is but one.
/// The results stand in the order of the items.
///
/// `work` may say which part of its item is done, from 0 to 1; `progress` is told, on the calling
/// thread, which part of all is.
pub fn on_threads<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T, &mut dyn FnMut(f64)) -> R + Sync,
    progress: &mut dyn FnMut(f64),
) -> Vec<R> {
    let all = items.len() as f64;
    let threads = threads.min(items.len());
    if threads <= 1 {
        let one = |(number, item)| {
            let result = work(item, &mut |part| progress((number as f64 + part) / all));
            progress((number + 1) as f64 / all);
            result
        };
        return items.iter().enumerate().map(one).collect();
    }
    let (next, (tell, told)) = (AtomicUsize::new(0), mpsc::channel());
    let mut parts = vec![0.0; items.len()];
    let mut found: Vec<Option<R>> = items.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for _ in 0..threads {
            let (tell, next, work) = (tell.clone(), &next, &work);
            scope.spawn(move || {
                while let number = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(number)
                {
                    // The one who listens is there until all have ended.
                    let say = |what| tell.send((number, what)).unwrap_or(());
                    let result = work(item, &mut |part| say(Told::Part(part)));
                    say(Told::Done(result));
                }
            });
        }
        drop(tell);
        for (number, what) in told {
            match what {
                Told::Part(part) => parts[number] = part,
                Told::Done(result) => {
                    parts[number] = 1.0;
                    found[number] = Some(result);
                }
            }
            progress(parts.iter().sum::<f64>() / all);
        }
    });
    // Each was told before its thread ended; a thread that panicked has ended this one, too.
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_order_on_any_number_of_threads() {
        let items: Vec<u64> = (0..100).collect();
        for threads in [0, 1, 2, 7, 200] {
            let mut parts = Vec::new();
            let work = |item: &u64, say: &mut dyn FnMut(f64)| {
                say(0.5);
                item * item
            };
            let squares = on_threads(&items, threads, work, &mut |part| parts.push(part));
            assert!(squares.iter().zip(&items).all(|(square, item)| *square == item * item));
            assert_eq!(squares.len(), 100);
            assert!(parts.is_sorted() && parts.iter().all(|part| (0.0..=1.0).contains(part)));
            assert!(parts.last().is_some_and(|part| *part == 1.0), "{threads}: {parts:?}");
        }
        assert!(on_threads(&[0_u64; 0], 4, |item, _| *item, &mut |_| {}).is_empty());
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        on_threads(&[1, 0], 2, |item, _| 1 / item, &mut |_| {});
    }
}
