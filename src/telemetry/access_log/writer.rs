//! From the workers' buffers to the output, by one thread.
//!
//! A worker encodes a line into a buffer of its own and goes on; the writer thread takes whole
//! buffers. A buffer that has something is written within 100 ms, one that holds 64 KiB at once. A
//! writer that cannot keep up costs lines, which are counted, and never time of a request.
//!
//! Cost per request: one lock that only the writer shares, for a swap ten times a second.

use std::{
    fmt,
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telemetry::{
    AccessLogPath, AccessLogSettings,
    access_log::Line,
    metrics::{ACCESS_LOG_LOST, Cells, Counter},
};

/// How long a line may wait for others.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// A buffer that holds so much does not wait.
const FLUSH_BYTES: usize = 64 * 1024;
/// A buffer that holds so much takes no more lines.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Commands under way. A full channel is no loss: what is in it makes the writer look at everything.
const COMMANDS: usize = 64;

/// The writer of the process. Clones share it; it ends when they and all sinks are gone.
#[derive(Clone)]
pub struct AccessLog {
    buffers: Arc<Mutex<Vec<Buffer>>>,
    commands: SyncSender<Command>,
}

/// Where one worker writes its lines, under one configuration.
#[derive(Debug)]
pub struct Sink {
    open: Option<Open>,
    lost: Counter,
}

struct Open {
    buffer: Buffer,
    commands: SyncSender<Command>,
    sample: f64,
    query: bool,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Human,
}

type Buffer = Arc<Mutex<Vec<u8>>>;
type Output = Box<dyn Write + Send>;

enum Command {
    /// A buffer is no longer empty.
    Written,
    /// A buffer should not wait.
    Full,
    /// What was written so far goes to the old output, the rest to this one.
    Replace(Output),
    /// Write everything, then say so.
    Flush(SyncSender<()>),
}

struct Writer {
    buffers: Arc<Mutex<Vec<Buffer>>>,
    commands: Receiver<Command>,
    output: Output,
    spare: Vec<u8>,
    last: Option<Instant>,
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens the output and starts the writer. Fails when the file cannot be opened or the thread
    /// cannot be started.
    pub fn start(path: &AccessLogPath) -> io::Result<Self> {
        Self::start_with(open(path)?)
    }

    /// As [`AccessLog::start`], to any output.
    pub fn start_with(output: Output) -> io::Result<Self> {
        let (sender, commands) = sync_channel(COMMANDS);
        let buffers = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            buffers: buffers.clone(),
            commands,
            output,
            spare: Vec::with_capacity(FLUSH_BYTES),
            last: None,
        };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { buffers, commands: sender })
    }

    /// A sink for one worker that follows `settings` and counts lost lines in `cells`.
    pub fn sink(&self, settings: &AccessLogSettings, cells: &Cells) -> Sink {
        let is_terminal = settings.path == AccessLogPath::Stdout && io::stdout().is_terminal();
        let lost = cells.counter(&ACCESS_LOG_LOST, &[]);
        if settings.path == AccessLogPath::Off {
            return Sink { open: None, lost };
        }
        let buffer = Buffer::default();
        self.buffers.lock().push(buffer.clone());
        let open = Open {
            buffer,
            commands: self.commands.clone(),
            sample: settings.sample,
            query: settings.query,
            format: if is_terminal { Format::Human } else { Format::Json },
        };
        Sink { open: Some(open), lost }
    }

    /// Opens the output of `path`, again if it is the same file, and writes to it from now on. When
    /// it cannot be opened nothing changes. Waits for the writer while its commands are full.
    pub fn reopen(&self, path: &AccessLogPath) -> io::Result<()> {
        self.send(Command::Replace(open(path)?))
    }

    /// Writes everything that the sinks hold; for the end of the process. `false` when that took
    /// longer than `timeout`. Blocks.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, is_done) = sync_channel(1);
        // A full channel means that the writer is stuck: then there is nothing to wait for.
        self.commands.try_send(Command::Flush(done)).is_ok()
            && is_done.recv_timeout(timeout).is_ok()
    }

    fn send(&self, command: Command) -> io::Result<()> {
        self.commands.send(command).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("sinks", &self.buffers.lock().len()).finish()
    }
}

fn open(path: &AccessLogPath) -> io::Result<Output> {
    Ok(match path {
        AccessLogPath::Off => Box::new(io::sink()),
        AccessLogPath::Stdout => Box::new(io::stdout()),
        AccessLogPath::File(path) => {
            Box::new(OpenOptions::new().append(true).create(true).open(path)?)
        }
    })
}

// === impl Sink ===

impl Sink {
    /// Writes nothing.
    pub fn off() -> Self {
        Self { open: None, lost: Counter::default() }
    }

    /// Hands a line to the writer, or counts it as lost when the writer is behind. Never waits.
    pub fn write(&self, line: &Line<'_>) {
        let Some(open) = &self.open else { return };
        if open.sample < 1.0 && fastrand::f64() >= open.sample {
            return;
        }
        let mut buffer = open.buffer.lock();
        let before = buffer.len();
        if before >= BUFFER_BYTES {
            self.lost.add(1);
            return;
        }
        match open.format {
            Format::Json => line.encode_json(open.query, &mut buffer),
            Format::Human => line.encode_human(open.query, &mut buffer),
        }
        let after = buffer.len();
        drop(buffer);
        // Refused when the channel is full: then the writer is about to look anyway.
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

    /// Lets more lines come in until the interval since the last write is over. The first line
    /// after a quiet time is written at once.
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
        let buffers = self.buffers.lock().clone();
        for buffer in &buffers {
            std::mem::swap(&mut *buffer.lock(), &mut self.spare);
            // An output that fails loses its lines; there is nowhere better to put them, and the
            // process must not end over its log.
            self.output.write_all(&self.spare).unwrap_or_default();
            self.spare.clear();
            self.spare.shrink_to(FLUSH_BYTES * 2);
        }
        self.output.flush().unwrap_or_default();
        drop(buffers);
        // A sink that is gone leaves a buffer that only this list holds.
        self.buffers
            .lock()
            .retain(|buffer| Arc::strong_count(buffer) > 1 || !buffer.lock().is_empty());
        self.last = Some(Instant::now());
    }
}
