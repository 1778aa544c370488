//! One thread writes the workers' buffers to the output.
//!
//! A worker encodes a line into its own buffer and continues; the writer thread takes whole
//! buffers. A buffer is written within 100 ms, or at once when it holds 64 KiB. If the writer
//! cannot keep up, lines are lost and counted, but no request waits. The same holds while the
//! output fails, and our log reports when that begins and ends.
//!
//! Cost per request: one lock, shared only with the writer, for a swap ten times a second.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{fs::OFlags, io::Errno};
use tokio::time::Instant;

use crate::telemetry::{
    AccessLogPath, AccessLogSettings,
    access_log::{Line, allowance::Allowance},
    clock,
    metrics::{ACCESS_LOG_LOST, Cells, Counter},
};

/// How long a line may wait for more lines.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// A buffer of this size is written at once.
const FLUSH_BYTES: usize = 64 * 1024;
/// A buffer of this size accepts no more lines.
const BUFFER_BYTES: usize = 1024 * 1024;
/// The capacity for commands. If it is full, a buffer loses nothing: the commands already in it
/// make the writer look at all buffers.
const COMMANDS: usize = 1024;

/// The writer of the process. Clones share it; it ends when all clones and sinks are gone.
#[derive(Clone)]
pub struct AccessLog {
    feeds: Arc<Mutex<Vec<Feed>>>,
    commands: SyncSender<Command>,
}

/// An output that is open but not used yet: using it cannot fail any more.
pub struct Opened(Output);

/// Accepts one worker's lines, under one configuration.
#[derive(Debug)]
pub struct Sink {
    open: Option<Open>,
    lost: Counter,
}

struct Open {
    buffer: Buffer,
    commands: SyncSender<Command>,
    sample: f64,
    /// Failures that are written although they are not in the sample.
    beyond: Allowance,
    /// `None`: the query is not written; otherwise without the values of these parameters.
    query: Option<Box<[Box<str>]>>,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Human,
}

/// The buffer of one sink, and the counter of its lost lines.
#[derive(Clone)]
struct Feed {
    buffer: Buffer,
    lost: Counter,
}

type Buffer = Arc<Mutex<Vec<u8>>>;
type Output = Box<dyn Write + Send>;

enum Command {
    /// A buffer is no longer empty.
    Written,
    /// A buffer should not wait.
    Full,
    /// Write what is there to the old output, the rest to this one.
    Replace(Output),
    /// Write everything, then report it.
    Flush(SyncSender<()>),
}

struct Writer {
    feeds: Arc<Mutex<Vec<Feed>>>,
    commands: Receiver<Command>,
    output: Output,
    spare: Vec<u8>,
    last: Option<Instant>,
    /// Whether the output ends within a line.
    is_torn: bool,
    /// Whether the last write failed.
    is_failing: bool,
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens the output and starts the writer. Fails if the file cannot be opened or the thread
    /// cannot be started.
    pub fn start(path: &AccessLogPath) -> io::Result<Self> {
        Self::start_with(Opened::new(path)?.0)
    }

    /// Like [`AccessLog::start`], with any output.
    pub fn start_with(output: Output) -> io::Result<Self> {
        let (sender, commands) = sync_channel(COMMANDS);
        let feeds = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            feeds: feeds.clone(),
            commands,
            output,
            spare: Vec::with_capacity(FLUSH_BYTES),
            last: None,
            is_torn: false,
            is_failing: false,
        };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { feeds, commands: sender })
    }

    /// A sink for one worker with these `settings` that counts lost lines in `cells`.
    pub fn sink(&self, settings: &AccessLogSettings, cells: &Cells) -> Sink {
        let is_terminal = settings.path == AccessLogPath::Stdout && io::stdout().is_terminal();
        let lost = cells.counter(&ACCESS_LOG_LOST, &[]);
        if settings.path == AccessLogPath::Off {
            return Sink { open: None, lost };
        }
        let buffer = Buffer::default();
        self.feeds.lock().push(Feed { buffer: buffer.clone(), lost: lost.clone() });
        let open = Open {
            buffer,
            commands: self.commands.clone(),
            sample: settings.sample,
            beyond: Allowance::default(),
            query: settings.query.then(|| settings.hidden.clone()),
            format: if is_terminal { Format::Human } else { Format::Json },
        };
        Sink { open: Some(open), lost }
    }

    /// Switches to `output` at the writer's next turn. Does not wait.
    pub fn replace(&self, output: Opened) {
        if self.commands.try_send(Command::Replace(output.0)).is_err() {
            tracing::error!("the access log is stuck in a write, and stays with its old output");
        }
    }

    /// Writes everything that the sinks hold; for the end of the process. `false` if that took
    /// longer than `timeout`. Blocks.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        // A full channel means that the writer is stuck: do not wait for it.
        self.commands.try_send(Command::Flush(done)).is_ok()
            && is_done.recv_timeout(timeout).is_ok()
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("sinks", &self.feeds.lock().len()).finish_non_exhaustive()
    }
}

// === impl Opened ===

impl Opened {
    /// Opens the output of `path`, anew if it is the same file. The error names the file.
    pub fn new(path: &AccessLogPath) -> io::Result<Self> {
        Ok(Self(match path {
            AccessLogPath::Off => Box::new(io::sink()),
            AccessLogPath::Stdout => Box::new(io::stdout()),
            AccessLogPath::File(path) => {
                Box::new(open(path).map_err(|error| refused(path, &error))?)
            }
        }))
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").finish_non_exhaustive()
    }
}

/// Fails at once on a pipe without a reader instead of waiting for one. Writing still waits.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
    Ok(file)
}

/// The system's error, with the file and what to do.
fn refused(path: &Path, error: &io::Error) -> io::Error {
    let help = match error.kind() {
        io::ErrorKind::NotFound => " (make its folder first)",
        io::ErrorKind::IsADirectory => " (name a file in it)",
        _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            " (a pipe needs a reader first)"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot write `{}`: {error}{help}", path.display()))
}

// === impl Sink ===

impl Sink {
    /// A sink that writes nothing.
    pub fn off() -> Self {
        Self { open: None, lost: Counter::default() }
    }

    /// Gives a line to the writer, or counts it as lost if the writer is behind. Never waits. A log
    /// that is off asks for no line.
    pub fn write<'a>(&self, line: impl FnOnce() -> Line<'a>) {
        let Some(open) = &self.open else { return };
        let line = line();
        if open.sample < 1.0 && fastrand::f64() >= open.sample {
            let is_written = line.is_ours() && open.beyond.take(clock::elapsed(clock::tick()));
            if !is_written {
                return;
            }
        }
        let mut buffer = open.buffer.lock();
        let before = buffer.len();
        if before >= BUFFER_BYTES {
            self.lost.add(1);
            return;
        }
        match open.format {
            Format::Json => line.encode_json(open.query.as_deref(), &mut buffer),
            Format::Human => line.encode_human(open.query.as_deref(), &mut buffer),
        }
        let after = buffer.len();
        drop(buffer);
        // Refused if the channel is full: then the writer is about to look anyway.
        if before < FLUSH_BYTES && after >= FLUSH_BYTES {
            open.commands.try_send(Command::Full).unwrap_or_default();
        } else if before == 0 {
            open.commands.try_send(Command::Written).unwrap_or_default();
        }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("sample", &self.sample)
            .field("query", &self.query)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

// === impl Writer ===

impl Writer {
    fn run(mut self) {
        while let Ok(command) = self.commands.recv() {
            self.obey(command);
        }
        self.drain();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Written => self.gather(),
            Command::Full => self.drain(),
            Command::Replace(output) => {
                self.drain();
                self.output = output;
            }
            Command::Flush(done) => {
                self.drain();
                done.try_send(()).unwrap_or_default();
            }
        }
    }

    /// Waits for more lines until the interval since the last write is over. The first line after a
    /// quiet time is written at once.
    fn gather(&mut self) {
        let due = self.last.map(|last| last + FLUSH_INTERVAL);
        while let Some(wait) = due.and_then(|due| due.checked_duration_since(Instant::now())) {
            match self.commands.recv_timeout(wait) {
                Ok(Command::Written) => {}
                Ok(command) => return self.obey(command),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        let feeds = self.feeds.lock().clone();
        for feed in &feeds {
            std::mem::swap(&mut *feed.buffer.lock(), &mut self.spare);
            self.put(&feed.lost);
            self.spare.clear();
            self.spare.shrink_to(FLUSH_BYTES * 2);
        }
        self.output.flush().unwrap_or_default();
        drop(feeds);
        // The buffer of a dropped sink is held by this list only.
        self.feeds.lock().retain(|Feed { buffer, .. }| {
            Arc::strong_count(buffer) > 1 || !buffer.lock().is_empty()
        });
        self.last = Some(Instant::now());
    }

    /// Writes the lines taken. If the output fails, lines that it did not accept completely are
    /// lost: there is no better place for them, and the process must not end because of its log.
    fn put(&mut self, lost: &Counter) {
        if self.spare.is_empty() {
            return;
        }
        let ended = if self.is_torn { self.output.write_all(b"\n") } else { Ok(()) };
        let (taken, written) = match ended {
            Ok(()) => write_whole(&mut self.output, &self.spare),
            Err(error) => (0, Err(error)),
        };
        if taken > 0 || written.is_ok() {
            self.is_torn = self.spare[..taken].last() != Some(&b'\n');
        }
        let left = self.spare[taken..].split(|byte| *byte == b'\n').count() - 1;
        lost.add(left as u64);
        self.tell(written);
    }

    /// Logs that the output fails, or works again; once each.
    fn tell(&mut self, written: io::Result<()>) {
        match written {
            Err(error) if !self.is_failing => tracing::error!(
                %error,
                "the access log cannot be written: lines are lost until it can, and counted"
            ),
            Ok(()) if self.is_failing => tracing::info!("the access log is written again"),
            Ok(()) | Err(_) => return,
        }
        self.is_failing = !self.is_failing;
    }
}

/// Like `write_all`, but also returns how much was written.
fn write_whole(output: &mut Output, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match output.write(&bytes[taken..]) {
            Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{io::Read as _, sync::mpsc};

    use http::StatusCode;
    use tokio::time::Instant;

    use super::*;
    use crate::{
        error::{Kind, Side},
        http::{Context, Peer, peer::Address},
        telemetry::metrics::Metrics,
    };

    /// An output that keeps what is written.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that reports each write and waits for permission to end it.
    struct Stepped {
        began: mpsc::SyncSender<usize>,
        leave: mpsc::Receiver<()>,
    }

    impl Write for Stepped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.began.send(bytes.len()).map_err(io::Error::other)?;
            self.leave.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const WAIT: Duration = Duration::from_secs(10);

    fn settings(sample: f64) -> AccessLogSettings {
        AccessLogSettings {
            path: AccessLogPath::File("unused".into()),
            sample,
            query: false,
            hidden: [].into(),
        }
    }

    fn write(sink: &Sink, lines: usize) {
        write_failed(sink, lines, None);
    }

    fn write_failed(sink: &Sink, lines: usize, reason: Option<&str>) {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), http::Method::GET, http::Version::HTTP_11);
        let line = || Line {
            time: clock::unix(Instant::now()),
            cx: &cx,
            target: None,
            trace_id: None,
            status: StatusCode::OK,
            sent: 0,
            took: Duration::ZERO,
            reason,
        };
        for _ in 0..lines {
            sink.write(line);
        }
    }

    #[test]
    fn the_first_line_after_a_quiet_time_is_written_at_once() {
        let (began, is_begun) = mpsc::sync_channel(1);
        let (give, leave) = mpsc::sync_channel(1);
        let log = AccessLog::start_with(Box::new(Stepped { began, leave })).unwrap();
        let sink = log.sink(&settings(1.0), &Metrics::new().thread());
        for _ in 0..3 {
            write(&sink, 1);
            assert!(is_begun.recv_timeout(WAIT).unwrap() > 0, "nobody asked for a flush");
            give.send(()).unwrap();
        }
    }

    #[test]
    fn a_writer_that_is_behind_costs_lines_and_they_are_counted() {
        let (began, is_begun) = mpsc::sync_channel(1);
        let (give, leave) = mpsc::sync_channel(1);
        let log = AccessLog::start_with(Box::new(Stepped { began, leave })).unwrap();
        let metrics = Metrics::new();
        let sink = log.sink(&settings(1.0), &metrics.thread());
        write(&sink, 1);
        let first = is_begun.recv_timeout(WAIT).unwrap();
        // The writer is stuck in its write: the buffer fills up and takes no more.
        let fit = BUFFER_BYTES.div_ceil(first);
        write(&sink, fit + 5);
        assert_eq!(sink.lost.get(), 5);
        assert!(metrics.render().contains("sluice_access_log_lost_total 5\n"));
        give.send(()).unwrap();
        let second = is_begun.recv_timeout(WAIT).unwrap();
        assert_eq!(second, fit * first, "what fitted is written");
        drop(give);
    }

    /// A disk with room for this number of bytes.
    #[derive(Clone)]
    struct Disk {
        room: Arc<Mutex<usize>>,
        content: Captured,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock();
            let fit = bytes.len().min(*room);
            if fit == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= fit;
            self.content.write(&bytes[..fit])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_the_output_does_not_take_are_counted_and_none_is_glued_to_another() {
        let disk = Disk { room: Arc::new(Mutex::new(usize::MAX)), content: Captured::default() };
        let log = AccessLog::start_with(Box::new(disk.clone())).unwrap();
        let sink = log.sink(&settings(1.0), &Metrics::new().thread());
        write(&sink, 1);
        assert!(log.flush(WAIT));
        let length = disk.content.take().len();

        *disk.room.lock() = 2 * length + length / 2;
        write(&sink, 5);
        assert!(log.flush(WAIT));
        assert_eq!(sink.lost.get(), 3, "two fitted, and half of a third");
        write(&sink, 4);
        assert!(log.flush(WAIT));
        assert_eq!(sink.lost.get(), 7, "no room at all");

        *disk.room.lock() = usize::MAX;
        write(&sink, 2);
        assert!(log.flush(WAIT));
        assert_eq!(sink.lost.get(), 7, "there is room again");
        let content = disk.content.take();
        let lengths: Vec<_> = content.split_inclusive('\n').map(str::len).collect();
        assert_eq!(lengths, [length, length, length / 2 + 1, length, length]);
    }

    #[test]
    fn every_line_of_every_sink_is_written_once() {
        let out = Captured::default();
        let log = AccessLog::start_with(Box::new(out.clone())).unwrap();
        let cells = Metrics::new().thread();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let sink = log.sink(&settings(1.0), &cells);
                thread::spawn(move || write(&sink, 1000))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(log.flush(WAIT));
        assert_eq!(out.take().lines().count(), 4000, "also of sinks that are gone");
        assert!(log.flush(WAIT));
        assert_eq!(log.feeds.lock().len(), 0, "and they are forgotten");
    }

    #[test]
    fn a_sample_of_nothing_writes_nothing_and_off_has_no_buffer() {
        let out = Captured::default();
        let log = AccessLog::start_with(Box::new(out.clone())).unwrap();
        let cells = Metrics::new().thread();
        write(&log.sink(&settings(0.0), &cells), 100);
        let off = AccessLogSettings { path: AccessLogPath::Off, ..settings(1.0) };
        write(&log.sink(&off, &cells), 100);
        write(&Sink::off(), 100);
        assert!(log.flush(WAIT));
        assert_eq!(out.take(), "");
    }

    #[test]
    fn what_failed_by_no_fault_of_the_client_is_written_whatever_the_sample() {
        let out = Captured::default();
        let log = AccessLog::start_with(Box::new(out.clone())).unwrap();
        let sink = log.sink(&settings(0.0), &Metrics::new().thread());
        for kind in Kind::all() {
            write_failed(&sink, 1, Some(kind.reason()));
            assert!(log.flush(WAIT));
            assert_eq!(!out.take().is_empty(), kind.side() != Side::Downstream, "{kind:?}");
        }
        write_failed(&sink, 1, Some("enqueued"));
        assert!(log.flush(WAIT));
        assert_eq!(out.take(), "", "no failure");
    }

    #[test]
    fn a_flood_of_refusals_is_sampled_as_everything_else() {
        let out = Captured::default();
        let log = AccessLog::start_with(Box::new(out.clone())).unwrap();
        let cells = Metrics::new().thread();
        let sink = log.sink(&settings(0.0), &cells);
        let since = Instant::now();
        write_failed(&sink, 5000, Some("shed-overload"));
        let seconds = since.elapsed().as_secs() + 2;
        assert!(log.flush(WAIT));
        let written = u64::try_from(out.take().lines().count()).unwrap();
        assert!((100..=100 * seconds).contains(&written), "{written} in {seconds} s");
        write_failed(&log.sink(&settings(1.0), &cells), 2000, Some("shed-overload"));
        assert!(log.flush(WAIT));
        assert_eq!(out.take().lines().count(), 2000, "who wants all of them has all");
    }

    #[test]
    fn reopen_goes_on_in_the_file_that_has_the_name_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = AccessLogPath::File(dir.path().join("access.log"));
        let AccessLogPath::File(file) = &path else { unreachable!() };
        let log = AccessLog::start(&path).unwrap();
        let sink = log.sink(&settings(1.0), &Metrics::new().thread());
        write(&sink, 2);
        assert!(log.flush(WAIT));
        let rotated = dir.path().join("access.log.1");
        std::fs::rename(file, &rotated).unwrap();
        write(&sink, 1);
        log.replace(Opened::new(&path).unwrap());
        assert!(log.flush(WAIT));
        write(&sink, 4);
        assert!(log.flush(WAIT));
        let lines = |path| std::fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(rotated.as_path()), lines(file.as_path())), (3, 4));

        let missing = AccessLogPath::File(dir.path().join("none/access.log"));
        let AccessLogPath::File(missing_file) = &missing else { unreachable!() };
        let said = Opened::new(&missing).unwrap_err().to_string();
        assert!(said.contains(&*missing_file.to_string_lossy()), "{said}");
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_refused_and_one_that_is_read_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let path = AccessLogPath::File(pipe.clone());
        let said = Opened::new(&path).unwrap_err().to_string();
        assert!(said.contains("a pipe needs a reader first"), "{said}");
        // Both ends: opening one of them then never waits.
        let mut both = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let mut opened = Opened::new(&path).unwrap();
        let file = open(&pipe).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK), "it waits");
        opened.0.write_all(b"line").unwrap();
        let mut read = [0; 4];
        both.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"line");
    }
}
