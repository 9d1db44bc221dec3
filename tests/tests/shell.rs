//! Shells (PROTOCOL §20.2): the command `ringback shell`, and a browser's stream frame by frame.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ringback_protocol::service::FrameBuffer;
use ringback_protocol::service::shell::{
    Exited, KEPT_OUTPUT, MAX_SHELLS_EACH, ShellError, Size, Start, Started, ToCaller, ToDevice,
};
use ringback_protocol::stream::Mode;
use ringback_tests::loopback::{Ended, Profile};
use ringback_tests::place::{Place, open};
use ringback_tests::rtc_caller::{Browser, PATIENCE};
use str0m::channel::ChannelId;

/// A browser's terminal.
struct Terminal {
    id: ChannelId,
    frames: FrameBuffer,
    started: Started,
    /// All output of the session so far.
    output: Vec<u8>,
    confirms: bool,
    /// Bytes of input so far.
    typed: u64,
}

fn start(session: Option<[u8; 16]>, received: u64) -> Start {
    Start {
        cols: 80,
        rows: 24,
        term: "xterm".into(),
        session,
        received,
    }
}

impl Terminal {
    fn open(browser: &mut Browser, start: Start) -> Result<Self> {
        let id = open(browser, "shell", Mode::Raw)?;
        let mut terminal = Self {
            id,
            frames: FrameBuffer::default(),
            started: Started {
                session: [0; 16],
                resumed: false,
                from: 0,
                input: 0,
            },
            output: Vec::new(),
            confirms: true,
            typed: 0,
        };
        terminal.say(browser, &ToDevice::Start(start))?;
        match terminal.next(browser)? {
            ToCaller::Started(started) => terminal.started = started,
            ToCaller::Failed(failed) => bail!("{}", failed.code),
            other => bail!("{other:?}"),
        }
        Ok(terminal)
    }

    fn say(&self, browser: &mut Browser, frame: &ToDevice) -> Result<()> {
        let bytes = frame.encode();
        anyhow::ensure!(browser.stream(self.id).write(&bytes) == bytes.len());
        Ok(())
    }

    fn type_in(&mut self, browser: &mut Browser, text: &str) -> Result<()> {
        self.typed += text.len() as u64;
        self.say(browser, &ToDevice::Input(text.into()))
    }

    fn next(&mut self, browser: &mut Browser) -> Result<ToCaller> {
        let mut next = None;
        browser.until("a frame of the shell", |browser| {
            while let Some(data) = browser.stream(self.id).read() {
                self.frames.push(&data);
            }
            next = self.frames.next_frame().expect("a frame");
            next.is_some() || browser.stream(self.id).is_over()
        })?;
        let frame = ToCaller::decode(&next.context("the stream is over")?)?;
        if let ToCaller::Output(bytes) = &frame {
            self.output.extend_from_slice(bytes);
            if self.confirms {
                let shown = self.started.from + self.output.len() as u64;
                // The device may have ended the stream already, and then takes no more.
                let _ = browser
                    .stream(self.id)
                    .write(&ToDevice::Received(shown).encode());
            }
        }
        Ok(frame)
    }

    /// Reads until the output has this.
    fn until(&mut self, browser: &mut Browser, text: &str) -> Result<()> {
        let has = |output: &[u8]| String::from_utf8_lossy(output).contains(text);
        while !has(&self.output) {
            if let ToCaller::Exited(exited) = self.next(browser)? {
                bail!("{exited:?} before '{text}'");
            }
        }
        Ok(())
    }

    /// Reads until the shell has all of the input.
    fn taken(&mut self, browser: &mut Browser) -> Result<()> {
        while self.next(browser)? != ToCaller::Taken(self.typed) {}
        Ok(())
    }

    fn exited(&mut self, browser: &mut Browser) -> Result<Exited> {
        loop {
            if let ToCaller::Exited(exited) = self.next(browser)? {
                return Ok(exited);
            }
        }
    }
}

/// `ringback shell`, with a script on its standard input.
fn shell(place: &Place, caller: &Profile, script: &str) -> Result<Ended> {
    let mut command = place.command(caller, &["shell", "nas"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?.into())
}

/// Streams come and go while the shell writes as fast as it can: the agent stays, and each stream
/// gets what it was promised.
#[test]
fn attaching_to_a_busy_shell_again_and_again() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    let mut browser = place.browser()?;
    let mut terminal = Terminal::open(&mut browser, start(None, 0))?;
    terminal.type_in(&mut browser, "exec yes\n")?;
    terminal.until(&mut browser, "y\r\ny\r\n")?;
    let session = terminal.started.session;
    for round in 0..60 {
        let mut next = Terminal::open(&mut browser, start(Some(session), 0))?;
        assert!(next.started.resumed, "round {round}");
        assert!(next.started.from >= terminal.started.from, "round {round}");
        // Half of them look, the others are gone at once.
        if round % 2 == 0 {
            next.until(&mut browser, "y\r\ny\r\n")?;
        }
        browser.stream(next.id).reset(0);
        terminal = next;
    }
    Terminal::open(&mut browser, start(None, 0))?;
    Ok(())
}

#[test]
fn the_command_ends_as_the_shell_does() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    let caller = Profile::new();
    let ended = shell(
        &place,
        &caller,
        "echo $((6*7))-$TERM-$RINGBACK_CALLER; exit 3\n",
    )?;
    assert_eq!(ended.code, 3, "{ended:?}");
    let said = format!("42-xterm-{}", caller.id());
    assert!(ended.stdout.contains(&said), "{ended:?}");
    // At the end of the input there is Ctrl-D, and a signal is 128 and its number.
    let ended = shell(&place, &caller, "true\n")?;
    assert_eq!(ended.code, 0, "{ended:?}");
    let ended = shell(&place, &caller, "kill -9 $$\n")?;
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
    // Nothing of the agent's own environment, and a home.
    let ended = shell(&place, &caller, "env | grep -c RINGBACK_; pwd; exit\n")?;
    assert!(ended.stdout.contains("1\r\n/"), "{ended:?}");
    // Off, unless it is exposed.
    place.device.profile.ok(["unexpose", "shell"]);
    let ended = shell(&place, &caller, "")?;
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("exposes no service"), "{ended:?}");
    Ok(())
}

#[test]
fn the_command_calls_again_and_the_shell_goes_on() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    // The command's calls go by this agent, whose death breaks the link.
    let host = place.another("laptop");
    let mut command = place.command(&host.profile, &["shell", "nas"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("piped")?;
    let mut stdout = child.stdout.take().context("piped")?;
    let (sender, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            // The test may be over.
            let _ = sender.send(buffer[..read].to_vec());
        }
    });
    let mut output = Vec::new();
    let mut until = |text: &str| -> Result<()> {
        while !String::from_utf8_lossy(&output).contains(text) {
            output.extend(said.recv_timeout(PATIENCE)?);
        }
        Ok(())
    };
    writeln!(stdin, "kept=here; echo fi''rst")?;
    until("first")?;
    let host = host.restart();
    writeln!(stdin, "echo sec''ond-$kept; exit 9")?;
    until("second-here")?;
    let ended = Ended::from(child.wait_with_output()?);
    assert_eq!(ended.code, 9, "{ended:?}");
    assert!(ended.stderr.contains("calling again"), "{ended:?}");
    assert!(ended.stderr.contains("connected again"), "{ended:?}");
    drop((stdin, host));
    Ok(())
}

#[test]
fn a_shell_outlives_its_stream_and_loses_nothing() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    let mut browser = place.browser()?;
    let mut terminal = Terminal::open(&mut browser, start(None, 0))?;
    assert!(!terminal.started.resumed);
    let size = Size {
        cols: 123,
        rows: 45,
    };
    terminal.say(&mut browser, &ToDevice::Resize(size))?;
    terminal.type_in(&mut browser, "stty size; stty -echo; PS1=; echo re''ady\n")?;
    terminal.until(&mut browser, "45 123")?;
    terminal.until(&mut browser, "ready\r\n")?;

    // It goes on while nobody is there.
    terminal.type_in(&mut browser, "sleep 0.3; echo mea''nwhile; echo do''ne\n")?;
    terminal.taken(&mut browser)?;
    let seen = terminal.output.len() as u64;
    browser.close(terminal.id);
    let session = Some(terminal.started.session);
    let mut again = Terminal::open(&mut browser, start(session, seen))?;
    assert!(again.started.resumed);
    again.until(&mut browser, "done\r\n")?;
    let whole = [terminal.output.as_slice(), &again.output].concat();
    let whole = String::from_utf8_lossy(&whole).into_owned();
    assert_eq!(whole.matches("meanwhile\r\n").count(), 1, "{whole}");

    // A newer stream takes it over.
    let shown = again.started.from + again.output.len() as u64;
    let mut newer = Terminal::open(&mut browser, start(session, shown))?;
    let failed = loop {
        if let ToCaller::Failed(failed) = again.next(&mut browser)? {
            break failed;
        }
    };
    assert_eq!(failed.code, ShellError::TakenOver);
    // Another caller does not get it: it has a shell of its own.
    let mut stranger = place.browser()?;
    let other = Terminal::open(&mut stranger, start(session, 0))?;
    assert!(!other.started.resumed);
    assert_ne!(Some(other.started.session), session);
    newer.type_in(&mut browser, "exit 7\n")?;
    let exited = newer.exited(&mut browser)?;
    assert_eq!((exited.code, exited.signal), (Some(7), None));
    Ok(())
}

#[test]
fn a_flood_waits_for_the_caller_and_an_interrupt_gets_through() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    let mut browser = place.browser()?;
    let mut terminal = Terminal::open(&mut browser, start(None, 0))?;
    terminal.type_in(&mut browser, "PS1=; echo re''ady\n")?;
    terminal.until(&mut browser, "ready\r\n")?;
    let memory = || -> Result<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", place.device.process.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.context("VmRSS")?.parse::<u64>()?)
    };
    let before = memory()?;
    // Unconfirmed, it stops at the window.
    terminal.confirms = false;
    let confirmed = terminal.output.len();
    terminal.type_in(&mut browser, "yes\n")?;
    while terminal.output.len() < confirmed + KEPT_OUTPUT - 8192 {
        terminal.next(&mut browser)?;
    }
    let id = terminal.id;
    let more = browser.within(Duration::from_millis(500), |browser| {
        browser.stream(id).readable() > 16 * 1024
    })?;
    assert!(!more, "{} bytes", terminal.output.len());
    // Confirmed, it flows; and Ctrl-C is heard at once.
    terminal.confirms = true;
    let aim = terminal.output.len() + 4 * KEPT_OUTPUT;
    let shown = terminal.started.from + terminal.output.len() as u64;
    terminal.say(&mut browser, &ToDevice::Received(shown))?;
    while terminal.output.len() < aim {
        terminal.next(&mut browser)?;
    }
    let grown = memory()?.saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    let interrupted = Instant::now();
    let at = terminal.output.len();
    terminal.type_in(&mut browser, "\u{3}")?;
    terminal.type_in(&mut browser, "echo aft''er; exit\n")?;
    let exited = terminal.exited(&mut browser)?;
    println!(
        "{} bytes and {:?} from Ctrl-C to the end",
        terminal.output.len() - at,
        interrupted.elapsed()
    );
    assert!(String::from_utf8_lossy(&terminal.output).contains("after\r\n"));
    assert!(terminal.output.len() - at < 2 * KEPT_OUTPUT);
    assert_eq!(exited.code, Some(0));
    Ok(())
}

#[test]
fn shells_are_few_and_end_with_the_callers_right() -> Result<()> {
    let place = Place::new(&[&["shell"]])?;
    let mut browser = place.browser()?;
    let mut shells = Vec::new();
    for _ in 0..MAX_SHELLS_EACH {
        shells.push(Terminal::open(&mut browser, start(None, 0))?);
    }
    let error = Terminal::open(&mut browser, start(None, 0))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), "too_many");
    let first = &mut shells[0];
    first.type_in(&mut browser, "echo p''id-$$-e''nd; exec sleep 1000\n")?;
    first.until(&mut browser, "-end")?;
    let said = String::from_utf8_lossy(&first.output).into_owned();
    let pid = said
        .split("pid-")
        .filter_map(|rest| rest.split('-').next()?.parse::<u32>().ok())
        .next()
        .with_context(|| said.clone())?;
    let alive = || std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(alive());
    let caller = place.device.callers().first().context("a caller")?.clone();
    for action in ["remember", "revoke"] {
        place.device.profile.ok(["callers", action, &caller]);
    }
    let started = Instant::now();
    while alive() {
        anyhow::ensure!(started.elapsed() < PATIENCE, "it runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
