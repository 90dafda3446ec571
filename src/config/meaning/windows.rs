//! `rollout.windows`: `{days: mon-fri, hours: "09:00-17:00", tz: Europe/Berlin}`.

use jiff::tz::TimeZone;

use super::section::Section;
use super::values::Wrong;
use crate::config::Window;
use crate::config::problem::shown;
use crate::config::yaml::Value;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The minute after the last one of a day: `24:00`.
const MIDNIGHT: u16 = 24 * 60;

pub(super) fn windows(rollout: &mut Section<'_>) -> Vec<Window> {
    rollout.sections("windows").into_iter().filter_map(window).collect()
}

fn window(mut window: Section<'_>) -> Option<Window> {
    let all = || (0..7).collect();
    let several = window.node("days").is_some_and(|node| matches!(node.value, Value::List(_)));
    let mut days: Vec<u8> = if several {
        if window.is_empty("days") {
            window.problem(
                "days",
                "is empty: it would never open",
                "write `mon-fri`, or delete the line for every day",
            );
        }
        window.list("days", Vec::new(), days).concat()
    } else {
        window.read("days", all(), days)
    };
    days.sort_unstable();
    days.dedup();
    let hours = window.read("hours", (0, MIDNIGHT), hours);
    if !window.has("days") && !window.has("hours") {
        let hint = "write them, such as `days: mon-fri` and `hours: \"09:00-17:00\"`";
        window.fault(Wrong::new("has neither `days` nor `hours`", hint));
    }
    let zone = window.require("tz", "write the time zone of its hours, such as `tz: Europe/Berlin` or `tz: UTC`", zone);
    zone.map(|zone| Window { days, hours, zone })
}

/// `mon-fri`, `sat-mon` or `sat`; Monday is 0.
fn days(text: &str) -> Result<Vec<u8>, Wrong> {
    let wrong = || {
        let hint = "write `mon-fri`, `sat` or `[mon, wed]`, of mon, tue, wed, thu, fri, sat and sun";
        Wrong::new(format!("{} are no days", shown(text)), hint)
    };
    let day = |text: &str| (0u8..).zip(DAYS).find(|(_, day)| day.eq_ignore_ascii_case(text.trim())).map(|(at, _)| at);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first).ok_or_else(wrong)?, day(last).ok_or_else(wrong)?);
    Ok((0..=(last + 7 - first) % 7).map(|more| (first + more) % 7).collect())
}

/// `09:00-17:00`, or `22:00-06:00` over midnight, in minutes.
fn hours(text: &str) -> Result<(u16, u16), Wrong> {
    let hint = "write them as `09:00-17:00`, or `22:00-06:00` over midnight";
    let wrong = || Wrong::new(format!("{} are no hours", shown(text)), hint);
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (minute(from.trim()).ok_or_else(wrong)?, minute(to.trim()).ok_or_else(wrong)?);
    match (from, to) {
        (MIDNIGHT, _) => Err(wrong()),
        (from, to) if from == to => {
            Err(Wrong::new(format!("{} never opens", shown(text)), "write `00:00-24:00` for the whole day"))
        }
        // Up to midnight is no later than the day's end.
        (from, 0) => Ok((from, MIDNIGHT)),
        hours => Ok(hours),
    }
}

/// The minute of the day; `24:00` is its end.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let part = |text: &str, length: std::ops::RangeInclusive<usize>| {
        let digits = length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (part(hour, 1..=2)?, part(minute, 2..=2)?);
    (minute < 60 && hour * 60 + minute <= MIDNIGHT).then_some(hour * 60 + minute)
}

fn zone(text: &str) -> Result<TimeZone, Wrong> {
    let hint = "write a name of the time zone database, such as `Europe/Berlin` or `UTC`";
    TimeZone::get(text).map_err(|_| Wrong::new(format!("{} is not a time zone", shown(text)), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_named_alone_or_from_one_to_another() {
        for (text, expected) in [
            ("mon-fri", &[0, 1, 2, 3, 4][..]),
            ("sat-mon", &[5, 6, 0]),
            ("Sun", &[6]),
            ("wed - wed", &[2]),
            ("tue-mon", &[1, 2, 3, 4, 5, 6, 0]),
        ] {
            assert_eq!(days(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "monday", "mon-", "mon-fri-sat", "1-5"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hours_are_of_a_clock() {
        for (text, expected) in [
            ("09:00-17:00", (540, 1020)),
            ("9:00 - 17:30", (540, 1050)),
            ("22:00-06:00", (1320, 360)),
            ("00:00-24:00", (0, 1440)),
            ("22:00-00:00", (1320, 1440)),
        ] {
            assert_eq!(hours(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "9-17",
            "09:00",
            "09:00-25:00",
            "24:00-01:00",
            "09:60-10:00",
            "09:0-10:00",
            "+9:00-10:00",
            "24:01-1:00",
        ] {
            assert!(hours(bad).is_err(), "{bad}");
        }
        assert_eq!(hours("09:00-09:00").map_err(|wrong| wrong.message), Err("`09:00-09:00` never opens".into()));
        assert_eq!(
            hours("00:00-00:00").map_err(|wrong| wrong.hint),
            Err("write `00:00-24:00` for the whole day".into())
        );
    }

    #[test]
    fn zones_are_those_of_the_database() {
        assert_eq!(
            zone("Europe/Berlin").map(|zone| zone.iana_name().map(str::to_owned)),
            Ok(Some("Europe/Berlin".into()))
        );
        assert!(zone("UTC").is_ok());
        for bad in ["", "Berlin", "../etc/passwd", "local"] {
            assert!(zone(bad).is_err(), "{bad}");
        }
    }
}
