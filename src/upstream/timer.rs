//! hyper's timers, as tokio's.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt;
use pin_project_lite::pin_project;
use tokio::time;

/// Makes timers of the runtime a connection lives on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer;

pin_project! {
    struct Sleep {
        #[pin]
        inner: time::Sleep,
    }
}

// === impl Timer ===

impl Timer {
    fn boxed(inner: time::Sleep) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep { inner })
    }
}

#[expect(clippy::disallowed_types, reason = "hyper's instants are the standard library's")]
impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Self::boxed(time::sleep(duration))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Self::boxed(time::sleep_until(deadline.into()))
    }

    fn now(&self) -> std::time::Instant {
        // The runtime's own clock, which its sleeps are measured by.
        time::Instant::now().into_std()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: std::time::Instant) {
        if let Some(sleep) = sleep.as_mut().downcast_mut_pin::<Sleep>() {
            sleep.project().inner.reset(deadline.into());
        }
    }
}

// === impl Sleep ===

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().inner.poll(cx)
    }
}

impl rt::Sleep for Sleep {}
