//! `vigie top`: how the agent is, again and again, on the whole terminal.
//!
//! What is known and shown is in `top/state.rs` and `top/draw.rs`, which know neither clock nor terminal. Here are the
//! threads that wait for the agent, for keys and for signals, and the terminal, which is given back as it was: on the
//! way out, on an error, on a panic and on a signal.

mod draw;
mod feed;
mod state;

use std::io::{self, IsTerminal as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::disable_raw_mode;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tokio::time::Instant;
use vigie_protocol::control::{Reply, Request};
use vigie_protocol::module_name::ModuleName;

use self::state::{Key, News, Order, State, Tab};
use crate::alerts::Progress;
use crate::client::{Client, ClientError};
use crate::durations;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};
use crate::status;

/// News that wait to be shown; a stream that is faster waits at its sender.
const NEWS: usize = 1024;

/// Longest that news are taken in without a new picture.
const PICTURE: Duration = Duration::from_millis(100);

/// Alerts that the screen begins with.
const FIRST_ALERTS: usize = 50;

/// Time between two attempts to open a stream again.
const RETRY: Duration = Duration::from_millis(500);

/// Longest that a terminal which takes nothing may hold up a signal.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// `top`
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Refresh interval
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = durations::positive)]
    pub(crate) interval: Duration,
}

/// What wakes the main thread.
enum Woken {
    News(News),
    /// The window has another size.
    Resized,
    /// A signal came.
    Signal(i32),
    /// The terminal is gone.
    Lost(io::Error),
}

/// Carries out `top`.
pub(crate) fn run(args: &TopArgs, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() || print::is_dumb() {
        return Err(Failure::new(
            Exit::Usage,
            "vigie top needs a terminal",
            "scripts use `vigie status --json` and `vigie alerts -f --json`",
        ));
    }
    // Whoever may not ask is told so, and not shown an empty screen.
    match status::fetch(socket) {
        Err(error) if !error.is_absence() => return Err(error.into()),
        _ => {}
    }
    let (sender, woken) = sync_channel(NEWS);
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
    // Restores the terminal when anything panics, too.
    let terminal = ratatui::try_init()?;
    spawn("signals", sender.clone(), |sender| pass_signals(signals, &sender))?;
    spawn("keys", sender.clone(), |sender| read_keys(&sender))?;
    let (path, interval) = (socket.to_owned(), args.interval);
    spawn("status", sender.clone(), move |sender| ask_again(&path, interval, &sender))?;
    let path = socket.to_owned();
    spawn("alerts", sender.clone(), move |sender| follow_alerts(&path, &sender))?;
    let mut screen = Screen { terminal, colour: printer.paint().is_on(), ascii: printer.is_ascii() };
    let streams = Streams { socket: socket.to_owned(), sender, open: None };
    let ended = show(&mut screen, &woken, streams);
    drop(screen);
    match ended? {
        // As whoever sent the signal expects it.
        Some(signal) => {
            emulate_default_handler(signal)?;
            Ok(Exit::Ok)
        }
        None => Ok(Exit::Ok),
    }
}

/// A terminal that is given back as it was.
struct Screen {
    terminal: DefaultTerminal,
    colour: bool,
    /// The user's locale has no UTF-8.
    ascii: bool,
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        ratatui::try_restore().ok();
    }
}

/// Shows what comes until a person or a signal ends it.
fn show(screen: &mut Screen, woken: &Receiver<Woken>, mut streams: Streams) -> Result<Option<i32>, Failure> {
    let mut state = State::new();
    loop {
        let (colour, ascii) = (screen.colour, screen.ascii);
        screen.terminal.draw(|frame| {
            draw::draw(frame, &mut state, colour);
            if ascii {
                draw::draw_in_ascii(frame);
            }
        })?;
        let Ok(mut next) = woken.recv() else { return Ok(None) };
        let since = Instant::now();
        loop {
            match next {
                Woken::News(news) => match state.take(news) {
                    Some(Order::Quit) => return Ok(None),
                    Some(Order::Open(number, module, tab)) => streams.open(number, &module, tab)?,
                    Some(Order::Close) => streams.close(),
                    None => {}
                },
                Woken::Resized => screen.terminal.autoresize()?,
                Woken::Signal(SIGTSTP) => {
                    ratatui::try_restore()?;
                    emulate_default_handler(SIGTSTP)?;
                    screen.terminal = ratatui::try_init()?;
                }
                // Stopped without being asked: the shell may have written on the screen meanwhile.
                Woken::Signal(SIGCONT) => screen.terminal.clear()?,
                Woken::Signal(signal) => return Ok(Some(signal)),
                Woken::Lost(error) => return Err(error.into()),
            }
            if since.elapsed() >= PICTURE {
                break;
            }
            match woken.try_recv() {
                Ok(more) => next = more,
                Err(_) => break,
            }
        }
    }
}

fn spawn(
    name: &str,
    sender: SyncSender<Woken>,
    work: impl FnOnce(SyncSender<Woken>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || work(sender)).map(drop)
}

#[expect(clippy::disallowed_methods, reason = "there is no arbiter here, and time is what is waited for")]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// Passes signals on. One that ends the program does so even when the terminal takes nothing any more.
fn pass_signals(mut signals: Signals, sender: &SyncSender<Woken>) {
    for signal in signals.forever() {
        let ends = !matches!(signal, SIGTSTP | SIGCONT);
        if !ends {
            if sender.send(Woken::Signal(signal)).is_err() {
                return;
            }
            continue;
        }
        let since = Instant::now();
        let mut sent = false;
        while since.elapsed() < LAST_WORDS {
            sent = sent || sender.try_send(Woken::Signal(signal)).is_ok();
            pause(PICTURE);
        }
        disable_raw_mode().ok();
        emulate_default_handler(signal).ok();
    }
}

/// Passes keys on.
fn read_keys(sender: &SyncSender<Woken>) {
    loop {
        let woken = match event::read() {
            Ok(Event::Resize(..)) => Some(Woken::Resized),
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                meaning(key.code, control)
            }
            Ok(_) => None,
            Err(error) => Some(Woken::Lost(error)),
        };
        let last = matches!(woken, Some(Woken::Lost(_)));
        if woken.is_some_and(|woken| sender.send(woken).is_err()) || last {
            return;
        }
    }
}

/// What a key means here.
fn meaning(code: KeyCode, control: bool) -> Option<Woken> {
    let key = match code {
        KeyCode::Char('c') if control => Key::Letter('q'),
        KeyCode::Char('z') if control => return Some(Woken::Signal(SIGTSTP)),
        KeyCode::Char('l') if control => return Some(Woken::Signal(SIGCONT)),
        KeyCode::Char('g') => Key::Home,
        KeyCode::Char('G') => Key::End,
        KeyCode::Char(letter) if !control => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter | KeyCode::Right => Key::Enter,
        KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => Key::Back,
        KeyCode::Tab => Key::Next,
        KeyCode::BackTab => Key::Previous,
        _ => return None,
    };
    Some(Woken::News(News::Key(key)))
}

/// Asks for the status again and again.
fn ask_again(socket: &Path, interval: Duration, sender: &SyncSender<Woken>) {
    let start = Instant::now();
    loop {
        let news = match status::fetch(socket) {
            Ok(status) => News::Status(Box::new(status), start.elapsed()),
            Err(error) => News::Away(error.to_string()),
        };
        if sender.send(Woken::News(news)).is_err() {
            return;
        }
        pause(interval);
    }
}

/// Passes alerts on, over restarts of the agent.
fn follow_alerts(socket: &Path, sender: &SyncSender<Woken>) {
    let mut progress = Progress::following(FIRST_ALERTS);
    loop {
        // The agent that is asked next may have another journal.
        if let Ok(status) = status::fetch(socket) {
            if progress.restarts_or_starts_at(status.journal.recorded) {
                let sentence = "the agent's journal was recreated".to_owned();
                sender.send(Woken::News(News::Missing(sentence))).ok();
            }
            // Why it ended is in the head of the screen: the status is asked for as well.
            if matches!(pass_alerts(socket, &mut progress, sender), Ok(Gone)) {
                return;
            }
        }
        pause(RETRY);
    }
}

/// Nobody takes news any more.
struct Gone;

fn pass_alerts(
    socket: &Path,
    progress: &mut Progress,
    sender: &SyncSender<Woken>,
) -> Result<Gone, ClientError> {
    let mut client = Client::connect(socket)?;
    client.send(&progress.request(), None)?;
    loop {
        let (news, last) = match client.receive()? {
            Reply::Alert(alert) if !progress.is_new(alert.seq) => continue,
            Reply::Alert(alert) => {
                let seq = alert.seq;
                (News::Alert(alert), seq)
            }
            Reply::Missing(missing) => (News::Missing(missing.message), missing.last),
            _ => return Err(ClientError::Closed),
        };
        progress.printed(last);
        if sender.send(Woken::News(news)).is_err() {
            return Ok(Gone);
        }
    }
}

/// The stream of the module that is looked into.
struct Streams {
    socket: PathBuf,
    sender: SyncSender<Woken>,
    open: Option<Arc<Mutex<Connection>>>,
}

/// A connection that another thread may end.
#[derive(Default)]
struct Connection {
    closed: bool,
    stream: Option<UnixStream>,
}

impl Streams {
    /// Opens a stream and closes the one before.
    fn open(&mut self, number: u64, module: &ModuleName, tab: Tab) -> io::Result<()> {
        self.close();
        let connection = Arc::<Mutex<Connection>>::default();
        self.open = Some(connection.clone());
        let module = module.to_string();
        let request = match tab {
            Tab::Tap => Request::Tap { module, whole: false },
            Tab::Log | Tab::Conditions => Request::Logs { module, follow: true },
        };
        let socket = self.socket.clone();
        spawn("stream", self.sender.clone(), move |sender| {
            pass_lines(&socket, &request, number, &connection, &sender);
        })
    }

    /// Closes the stream that is open.
    fn close(&mut self) {
        let Some(connection) = self.open.take() else { return };
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.closed = true;
        if let Some(stream) = connection.stream.take() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Passes the lines of a module on until the connection is closed from here; an agent that goes away is waited for.
fn pass_lines(
    socket: &Path,
    request: &Request,
    number: u64,
    connection: &Mutex<Connection>,
    sender: &SyncSender<Woken>,
) {
    loop {
        let Err(error) = pass_lines_once(socket, request, number, connection, sender) else { return };
        if connection.lock().unwrap_or_else(PoisonError::into_inner).closed {
            return;
        }
        let again = error.is_absence();
        let reason = Failure::from(error);
        let hint = if again || reason.hint.is_empty() { String::new() } else { format!(": {}", reason.hint) };
        let news = News::Ended(number, format!("{}{hint}", reason.message));
        if sender.send(Woken::News(news)).is_err() || !again {
            return;
        }
        pause(RETRY);
    }
}

fn pass_lines_once(
    socket: &Path,
    request: &Request,
    number: u64,
    connection: &Mutex<Connection>,
    sender: &SyncSender<Woken>,
) -> Result<Gone, ClientError> {
    let mut client = Client::connect(socket)?;
    {
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.closed {
            return Ok(Gone);
        }
        connection.stream = Some(client.handle()?);
    }
    client.send(request, None)?;
    loop {
        let Reply::Line(line) = client.receive()? else { return Err(ClientError::Closed) };
        if sender.send(Woken::News(News::Line(number, *line))).is_err() {
            return Ok(Gone);
        }
    }
}
