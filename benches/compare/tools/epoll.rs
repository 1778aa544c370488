//! epoll, level-triggered, and a table of what is registered.
//!
//! std links the C library but does not wrap epoll; a few declarations are cheaper than a crate.

use std::{
    ffi::{c_int, c_long, c_ulong, c_void},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

/// Bytes can be read, or the other side is gone.
pub const READ: u32 = 0x001;
/// Bytes can be written.
pub const WRITE: u32 = 0x004;

const ADD: c_int = 1;
const MODIFY: c_int = 3;
const CLOSE_ON_EXEC: c_int = 0o2_000_000;
const BATCH: usize = 256;
const SET_TIMER_SLACK: c_int = 29;

/// One readiness report, as the kernel lays it out.
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
#[derive(Clone, Copy, Default)]
pub struct Event {
    /// [`READ`], [`WRITE`], and the kernel's own bits for errors.
    pub ready: u32,
    /// What the descriptor was registered under.
    pub token: u64,
}

#[repr(C)]
struct Time {
    seconds: i64,
    nanos: c_long,
}

/// An epoll instance. A descriptor leaves it by being closed.
pub struct Epoll {
    descriptor: OwnedFd,
    events: [Event; BATCH],
}

unsafe extern "C" {
    fn epoll_create1(flags: c_int) -> c_int;
    fn epoll_ctl(epoll: c_int, operation: c_int, descriptor: c_int, event: *mut Event) -> c_int;
    fn epoll_pwait2(
        epoll: c_int,
        events: *mut Event,
        capacity: c_int,
        timeout: *const Time,
        signals: *const c_void,
    ) -> c_int;
    fn prctl(option: c_int, argument: c_ulong, ...) -> c_int;
}

/// Lets this thread's timers end when they are over, not up to 50 us later.
pub fn sharp_timers() -> io::Result<()> {
    // SAFETY: takes no pointers.
    checked(unsafe { prctl(SET_TIMER_SLACK, 1) })
}

// === impl Epoll ===

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before it is owned.
        let descriptor = unsafe { epoll_create1(CLOSE_ON_EXEC) };
        checked(descriptor)?;
        // SAFETY: just created, owned by nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, events: [Event::default(); BATCH] })
    }

    pub fn add(&self, descriptor: RawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(ADD, descriptor, token, interest)
    }

    pub fn modify(&self, descriptor: RawFd, token: u64, interest: u32) -> io::Result<()> {
        self.control(MODIFY, descriptor, token, interest)
    }

    /// Waits without limit and returns how many events [`Epoll::event`] now has.
    pub fn wait(&mut self) -> io::Result<usize> {
        self.wait_until(ptr::null())
    }

    /// As [`Epoll::wait`], and returns 0 when the time is over.
    pub fn wait_for(&mut self, time: Duration) -> io::Result<usize> {
        let (seconds, nanos) = (time.as_secs() as i64, time.subsec_nanos().into());
        self.wait_until(&Time { seconds, nanos })
    }

    fn wait_until(&mut self, timeout: *const Time) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer is ours, live, and BATCH long; the time is null or the caller's.
            let count = unsafe {
                epoll_pwait2(
                    self.descriptor.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    BATCH as c_int,
                    timeout,
                    ptr::null(),
                )
            };
            match checked(count) {
                Ok(()) => return Ok(count as usize),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn event(&self, index: usize) -> Event {
        self.events[index]
    }

    fn control(&self, operation: c_int, target: RawFd, token: u64, ready: u32) -> io::Result<()> {
        let mut event = Event { ready, token };
        // SAFETY: `event` lives through the call; the kernel copies it.
        checked(unsafe { epoll_ctl(self.descriptor.as_raw_fd(), operation, target, &mut event) })
    }
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
