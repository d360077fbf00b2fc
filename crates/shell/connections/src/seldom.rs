//! A future that is asked again only once something of its own woke it.
//!
//! A task that waits for several things at once asks all of them whenever one of them woke it. Deadlines and signals of the
//! end wake a connection's task hardly ever, its socket with every request: so they are kept apart, and what a request pays
//! for them is a look at one flag.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// A future with a waker of its own. Invariant: it was asked after each of its wakings (test
/// `what_wakes_the_task_is_told_apart`).
pub struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
    /// Whom the bell wakes, for a comparison without its lock.
    wakes: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future> Seldom<F> {
    /// Sets a future apart.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            wakes: None,
        }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if !this.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(context.waker())) {
            this.wakes = Some(context.waker().clone());
            *this.bell.task.lock() = Some(context.waker().clone());
        }
        // What rings from here on is seen by the future now, or wakes the task anew.
        if !this.bell.rung.load(Ordering::Acquire) || !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts how often it is asked; done at the third time.
    struct Asked {
        times: Arc<AtomicUsize>,
        waker: Arc<Mutex<Option<Waker>>>,
    }

    impl Future for Asked {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            *self.waker.lock() = Some(context.waker().clone());
            if self.times.fetch_add(1, Ordering::Relaxed) == 2 {
                return Poll::Ready(());
            }
            Poll::Pending
        }
    }

    #[test]
    fn what_wakes_the_task_is_told_apart() {
        let (times, waker) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let mut seldom = Seldom::new(Asked {
            times: Arc::clone(&times),
            waker: Arc::clone(&waker),
        });
        let ring = || waker.lock().clone().unwrap().wake();
        let tasks = [(); 2].map(|()| Arc::new(Count(AtomicUsize::new(0))));
        let wakers = tasks.clone().map(Waker::from);
        let mut ask = |task: usize| Pin::new(&mut seldom).poll(&mut Context::from_waker(&wakers[task]));
        let woken = |task: usize| tasks[task].0.load(Ordering::Relaxed);

        assert!(ask(0).is_pending() && ask(0).is_pending() && ask(0).is_pending());
        assert_eq!(times.load(Ordering::Relaxed), 1, "others woke the task");
        ring();
        assert_eq!(woken(0), 1);
        // The ring went to the task of before, and is not lost on the next one.
        assert!(ask(1).is_pending());
        assert_eq!(times.load(Ordering::Relaxed), 2);
        assert!(ask(1).is_pending());
        assert_eq!(times.load(Ordering::Relaxed), 2);
        ring();
        assert_eq!([woken(0), woken(1)], [1, 1]);
        assert!(ask(1).is_ready());
    }
}
