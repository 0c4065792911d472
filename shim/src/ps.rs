//! What ps(1) would show of a guest's processes.

mod options;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hull_protocol::agent::ProcessInfo;

pub use options::{columns, columns_with_pid, PsError};

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    User,
    Uid,
    Pid,
    Parent,
    Group,
    Session,
    /// Whole percent of a CPU.
    Load,
    CpuShare,
    MemoryShare,
    /// KiB, as the next one.
    Virtual,
    Resident,
    Terminal,
    /// One letter.
    State,
    /// With more letters.
    Status,
    Start,
    StartSeconds,
    StartDate,
    Elapsed,
    ElapsedSeconds,
    Time,
    TimeSeconds,
    ShortTime,
    Command,
    /// The program's name alone.
    Program,
    Nice,
    Threads,
}

/// The columns that are told of a microVM's processes: name and head, as ps(1) has them.
const COLUMNS: &[(&str, &str, What)] = &[
    ("pid", "PID", What::Pid),
    ("tgid", "TGID", What::Pid),
    ("ppid", "PPID", What::Parent),
    ("pgid", "PGID", What::Group),
    ("pgrp", "PGRP", What::Group),
    ("sid", "SID", What::Session),
    ("sess", "SESS", What::Session),
    ("session", "SESS", What::Session),
    ("user", "USER", What::User),
    ("uname", "USER", What::User),
    ("euser", "EUSER", What::User),
    ("uid", "UID", What::Uid),
    ("euid", "EUID", What::Uid),
    ("c", "C", What::Load),
    ("pcpu", "%CPU", What::CpuShare),
    ("%cpu", "%CPU", What::CpuShare),
    ("pmem", "%MEM", What::MemoryShare),
    ("%mem", "%MEM", What::MemoryShare),
    ("vsz", "VSZ", What::Virtual),
    ("vsize", "VSZ", What::Virtual),
    ("rss", "RSS", What::Resident),
    ("rssize", "RSS", What::Resident),
    ("rsz", "RSZ", What::Resident),
    ("tty", "TT", What::Terminal),
    ("tt", "TT", What::Terminal),
    ("tname", "TTY", What::Terminal),
    ("s", "S", What::State),
    ("state", "S", What::State),
    ("stat", "STAT", What::Status),
    ("stime", "STIME", What::Start),
    ("start_time", "START", What::Start),
    ("start", "STARTED", What::StartSeconds),
    ("lstart", "STARTED", What::StartDate),
    ("etime", "ELAPSED", What::Elapsed),
    ("etimes", "ELAPSED", What::ElapsedSeconds),
    ("time", "TIME", What::Time),
    ("cputime", "TIME", What::Time),
    ("times", "TIME", What::TimeSeconds),
    ("cputimes", "TIME", What::TimeSeconds),
    ("bsdtime", "TIME", What::ShortTime),
    ("cmd", "CMD", What::Command),
    ("args", "COMMAND", What::Command),
    ("command", "COMMAND", What::Command),
    ("comm", "COMMAND", What::Program),
    ("ucomm", "COMMAND", What::Program),
    ("ucmd", "CMD", What::Program),
    ("ni", "NI", What::Nice),
    ("nice", "NI", What::Nice),
    ("nlwp", "NLWP", What::Threads),
    ("thcount", "THCNT", What::Threads),
];

/// The other columns that ps(1) knows (procps-ng 4.0).
const OTHERS: &str = "\
    ag_id ag_nice atime blocked bsdstart caught cgname cgroup cgroupns class cls context cp \
    cpuid cuc cuu drs dsiz egid egroup eip esp exe f fgid fgroup flag flags fname fsgid \
    fsgroup fsuid fsuser fuid fuser gid group ignored intpri ipcns label lastcpu lim \
    longtname lsession luid lwp lxc m_drs m_size m_trs machine maj_flt majflt min_flt minflt \
    mntns netns numa oom oomadj opri ouid pagein pending pidns policy pri pri_api pri_bar \
    pri_baz pri_foo priority psr pss rbytes rchars rgid rgroup rops rtprio ruid ruser sched \
    seat sgi_p sgi_rss sgid sgroup sig sig_block sig_catch sig_ignore sig_pend sigcatch \
    sigignore sigmask size slice spid stackp start_stack suid supgid supgrp suser svgid \
    svgroup svuid svuser sz tid timens tpgid trs trss tsig tsiz tty4 tty8 uid_hack unit \
    userns uss util utsns uunit wbytes wcbytes wchan wchars wname wops zone";

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// By which it was asked for; empty: it is one of an option's.
    name: &'static str,
    head: String,
    what: What,
}

impl Column {
    /// Whether it shows numbers of processes, of groups or of sessions.
    pub fn is_of_pids(&self) -> bool {
        use What::{Group, Parent, Pid, Session};
        matches!(self.what, Pid | Parent | Group | Session)
    }

    fn named(name: &str) -> Result<Self, PsError> {
        if let Some((name, head, what)) = COLUMNS.iter().find(|(known, ..)| *known == name) {
            return Ok(Self {
                name,
                head: (*head).to_owned(),
                what: *what,
            });
        }
        let name = name.to_owned();
        match OTHERS.split(' ').any(|other| other == name) {
            true => Err(PsError::NotTold {
                name,
                known: COLUMNS
                    .iter()
                    .map(|(name, ..)| *name)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
            false => Err(PsError::UnknownColumn(name)),
        }
    }

    /// Its title.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// What it shows of a process.
    pub fn cell(&self, process: &ProcessInfo, viewer: &Viewer) -> String {
        let age = Duration::from_nanos(viewer.now_ns.saturating_sub(process.started_at_ns));
        let cpu = Duration::from_nanos(process.cpu_ns);
        match self.what {
            What::User => viewer.users.name(process.uid),
            What::Uid => process.uid.to_string(),
            What::Pid => process.pid.to_string(),
            What::Parent => process.ppid.to_string(),
            What::Group => process.group.to_string(),
            What::Session => process.session.to_string(),
            What::Load => format!("{:.0}", share(cpu, age).floor().min(99.0)),
            What::CpuShare => format!("{:.1}", share(cpu, age)),
            What::MemoryShare => format!("{:.1}", f64::from(process.memory_permille) / 10.0),
            What::Virtual => (process.virtual_bytes >> 10).to_string(),
            What::Resident => (process.resident_bytes >> 10).to_string(),
            What::Terminal if process.tty.is_empty() => "?".to_owned(),
            What::Terminal => process.tty.clone(),
            What::State => process.state.clone(),
            What::Status => status(process),
            What::Start => viewer.start(process, "%H:%M", "%b%d"),
            What::StartSeconds => viewer.start(process, "%H:%M:%S", "%b %d"),
            What::StartDate => {
                viewer.start(process, "%a %b %e %H:%M:%S %Y", "%a %b %e %H:%M:%S %Y")
            }
            What::Elapsed => elapsed(age),
            What::ElapsedSeconds => age.as_secs().to_string(),
            What::Time => cpu_time(cpu),
            What::TimeSeconds => cpu.as_secs().to_string(),
            What::ShortTime => format!("{}:{:02}", cpu.as_secs() / 60, cpu.as_secs() % 60),
            What::Command => process.command.clone(),
            What::Program => program(&process.command).to_owned(),
            What::Nice => process.nice.to_string(),
            What::Threads => process.threads.to_string(),
        }
    }
}

/// Percent of the time.
fn share(of: Duration, all: Duration) -> f64 {
    match all.is_zero() {
        true => 0.0,
        false => of.as_secs_f64() / all.as_secs_f64() * 100.0,
    }
}

/// The letters behind the state are those of ps(1): priority, leader of a session, threads, foreground.
fn status(process: &ProcessInfo) -> String {
    let mut letters = process.state.clone();
    letters.push_str(match process.nice {
        ..0 => "<",
        0 => "",
        1.. => "N",
    });
    for (holds, letter) in [
        (process.session == process.pid, 's'),
        (1 < process.threads, 'l'),
        (process.in_foreground, '+'),
    ] {
        if holds {
            letters.push(letter);
        }
    }
    letters
}

/// `[[days-]hours:]minutes:seconds`
fn elapsed(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

/// `[days-]hours:minutes:seconds`
fn cpu_time(cpu: Duration) -> String {
    let seconds = cpu.as_secs();
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match days {
        0 => rest,
        days => format!("{days}-{rest}"),
    }
}

/// Of a command line, or of a kernel thread's name in brackets.
fn program(command: &str) -> &str {
    let path = command.split(' ').next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// Who looks, read once for a whole list.
#[derive(Debug, Default)]
pub struct Viewer {
    users: Users,
    /// Nanoseconds since the epoch.
    now_ns: u64,
}

impl Viewer {
    /// This host, now.
    pub fn read() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            users: Users::read(),
            now_ns: since.map_or(0, |since| {
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            }),
        }
    }

    /// When a process began: of the last day, or before.
    fn start(&self, process: &ProcessInfo, of_day: &str, before: &str) -> String {
        const DAY_NS: u64 = 86_400_000_000_000;
        let is_old = process.started_at_ns.saturating_add(DAY_NS) < self.now_ns;
        let time = jiff::Timestamp::from_nanosecond(process.started_at_ns.into());
        let format = if is_old { before } else { of_day };
        time.unwrap_or_default().strftime(format).to_string()
    }
}

/// The users of this host, read once for a whole list.
#[derive(Debug, Clone, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// Those that the host has now.
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut users = HashMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            let name = fields.next();
            let uid = fields.nth(1).and_then(|uid| uid.parse().ok());
            if let (Some(name), Some(uid)) = (name, uid) {
                // The first name counts, as for getpwuid(3).
                users.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(users)
    }

    /// A user's name, else `#UID`, as runc has it.
    pub fn name(&self, uid: u32) -> String {
        let known = self.0.get(&uid).cloned();
        known.unwrap_or_else(|| format!("#{uid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, process: &ProcessInfo, now_ns: u64) -> String {
        let viewer = Viewer {
            users: Users::default(),
            now_ns,
        };
        Column::named(name).unwrap().cell(process, &viewer)
    }

    #[test]
    fn figures_are_in_the_units_of_ps() {
        const SECOND: u64 = 1_000_000_000;
        let process = ProcessInfo {
            pid: 7,
            session: 7,
            state: "S".into(),
            nice: 5,
            threads: 2,
            started_at_ns: 1000 * SECOND,
            cpu_ns: 90 * SECOND,
            virtual_bytes: 8 << 20,
            resident_bytes: 2 << 20,
            memory_permille: 15,
            command: "/bin/sleep 9".into(),
            ..ProcessInfo::default()
        };
        let now = (1000 + 3600) * SECOND;
        for (name, want) in [
            ("pid", "7"),
            ("uid", "0"),
            ("user", "#0"),
            ("stat", "SNsl"),
            ("s", "S"),
            ("vsz", "8192"),
            ("rss", "2048"),
            ("pmem", "1.5"),
            ("pcpu", "2.5"),
            ("c", "2"),
            ("etime", "01:00:00"),
            ("etimes", "3600"),
            ("time", "00:01:30"),
            ("bsdtime", "1:30"),
            ("stime", "00:16"),
            ("comm", "sleep"),
            ("args", "/bin/sleep 9"),
            ("tty", "?"),
            ("nlwp", "2"),
            ("ni", "5"),
        ] {
            assert_eq!(cell(name, &process, now), want, "{name}");
        }
        let later = now + 100 * 86_400 * SECOND;
        assert_eq!(cell("stime", &process, later), "Jan01");
        assert_eq!(cell("etime", &process, later), "100-01:00:00");
        // A guest's clock may be ahead.
        assert_eq!(cell("pcpu", &process, 0), "0.0");
    }

    #[test]
    fn users_have_their_first_name() {
        let users = Users::parse("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\nodd\n:x:y:\nme:x:7:7");
        assert_eq!(users.name(0), "root");
        assert_eq!(users.name(7), "me");
        assert_eq!(users.name(4_000_000_000), "#4000000000");
    }

    #[test]
    fn a_program_is_told_from_its_path_and_arguments() {
        for (command, name) in [("/bin/sleep 1", "sleep"), ("sh", "sh"), ("", "")] {
            assert_eq!(program(command), name);
        }
    }
}
