//! How a line looks that a syslog server gets.

use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::Zoned;

use super::super::Message;
use crate::logs::Stream;

const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

/// By which a server sorts messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facility(u8);

/// In the order of their numbers.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp",
];
const DAEMON: u8 = 3;
const LOCAL_0: u8 = 16;
const HIGHEST: u8 = 23;

impl FromStr for Facility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = || {
            let index = FACILITIES.iter().position(|name| *name == text)?;
            u8::try_from(index).ok()
        };
        let local = || {
            let number: u8 = text.strip_prefix("local")?.parse().ok()?;
            (number < 8).then_some(LOCAL_0 + number)
        };
        let numbered = || text.parse().ok().filter(|number| *number <= HIGHEST);
        let number = match text {
            "" => Some(DAEMON),
            _ => named().or_else(local).or_else(numbered),
        };
        number
            .map(Self)
            .ok_or_else(|| "invalid syslog facility".to_owned())
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// That of a host's own server: without the host's name.
    Local,
    Rfc3164,
    Rfc5424,
    /// With microseconds.
    Rfc5424Micro,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Local),
            "rfc3164" => Ok(Self::Rfc3164),
            "rfc5424" => Ok(Self::Rfc5424),
            "rfc5424micro" => Ok(Self::Rfc5424Micro),
            _ => Err("Invalid syslog format".to_owned()),
        }
    }
}

/// What all lines of a container say.
#[derive(Debug)]
pub(super) struct Head {
    facility: Facility,
    tag: String,
    host: String,
    pid: u32,
    zone: TimeZone,
}

impl Head {
    pub(super) fn of_this_host(facility: Facility, tag: String) -> Self {
        Self {
            facility,
            tag,
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            pid: std::process::id(),
            zone: TimeZone::system(),
        }
    }
}

impl Format {
    /// The line, without its end.
    pub(super) fn line(self, head: &Head, message: &Message) -> Vec<u8> {
        let severity = match message.stream {
            Stream::Stdout => INFORMATION,
            Stream::Stderr => ERROR,
        };
        let priority = head.facility.0 << 3 | severity;
        let time = message.time.to_zoned(head.zone.clone());
        let Head { tag, host, pid, .. } = head;
        let old = |time: &Zoned| time.strftime("%b %e %H:%M:%S").to_string();
        let new = |time: String| format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ");
        let text = match self {
            Self::Local => format!("<{priority}>{} {tag}[{pid}]: ", old(&time)),
            Self::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", old(&time)),
            Self::Rfc5424 => new(rfc3339(&time, "")),
            Self::Rfc5424Micro => {
                let micros = time.subsec_nanosecond() / 1000;
                new(rfc3339(&time, &format!(".{micros:06}")))
            }
        };
        let mut line = text.into_bytes();
        line.extend_from_slice(&message.text);
        line
    }
}

fn rfc3339(time: &Zoned, fraction: &str) -> String {
    let zone = match time.offset().seconds() {
        0 => "Z".to_owned(),
        _ => time.strftime("%:z").to_string(),
    };
    format!("{}{fraction}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S"))
}

/// How a server finds where a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    LineEnd,
    /// The length stands before it, as RFC 5425 has it.
    Counted,
}

impl Framing {
    pub(super) fn of(format: Format, secure: bool) -> Self {
        match format {
            Format::Rfc5424 | Format::Rfc5424Micro if secure => Self::Counted,
            _ => Self::LineEnd,
        }
    }

    pub(super) fn frame(self, mut line: Vec<u8>) -> Vec<u8> {
        line.push(b'\n');
        match self {
            Self::LineEnd => line,
            Self::Counted => {
                let mut framed = format!("{} ", line.len()).into_bytes();
                framed.append(&mut line);
                framed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::message;
    use super::*;

    fn line(format: &str, zone: TimeZone) -> String {
        let head = Head {
            facility: "local3".parse().unwrap(),
            tag: "web/1".to_owned(),
            host: "host".to_owned(),
            pid: 42,
            zone,
        };
        let message = Message {
            time: "2026-03-05T07:08:09.000012Z".parse().unwrap(),
            stream: Stream::Stderr,
            ..message("it broke")
        };
        String::from_utf8(format.parse::<Format>().unwrap().line(&head, &message)).unwrap()
    }

    #[test]
    fn each_format_has_its_head() {
        let lines = [
            ("", "<155>Mar  5 07:08:09 web/1[42]: it broke"),
            ("rfc3164", "<155>Mar  5 07:08:09 host web/1[42]: it broke"),
            (
                "rfc5424",
                "<155>1 2026-03-05T07:08:09Z host web/1 42 web/1 - it broke",
            ),
            (
                "rfc5424micro",
                "<155>1 2026-03-05T07:08:09.000012Z host web/1 42 web/1 - it broke",
            ),
        ];
        for (format, expected) in lines {
            assert_eq!(line(format, TimeZone::UTC), expected);
        }
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert!(line("rfc5424", zone.clone()).contains(" 2026-03-05T09:08:09+02:00 "));
        assert!(line("rfc3164", zone).starts_with("<155>Mar  5 09:08:09 "));
        assert!("rfc1".parse::<Format>().is_err());
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        for (text, number) in [
            ("", 3),
            ("kern", 0),
            ("ftp", 11),
            ("local7", 23),
            ("16", 16),
        ] {
            assert_eq!(text.parse(), Ok(Facility(number)), "{text}");
        }
        for bad in ["local8", "24", "-1", "moon"] {
            assert!(bad.parse::<Facility>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_are_counted_only_by_tls_in_the_new_form() {
        assert_eq!(Framing::of(Format::Rfc5424, false), Framing::LineEnd);
        assert_eq!(Framing::of(Format::Rfc3164, true), Framing::LineEnd);
        let counted = Framing::of(Format::Rfc5424Micro, true);
        assert_eq!(counted.frame(b"abc".to_vec()), b"4 abc\n");
    }
}
