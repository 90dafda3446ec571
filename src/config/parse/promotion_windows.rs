//! Parses `rollout.windows`, a list of entries such as
//! `{days: mon-fri, hours: "09:00-17:00", tz: Europe/Berlin}`.

use jiff::tz::TimeZone;

use crate::config::PromotionWindow;
use crate::config::diagnostics::quote_for_message;
use crate::config::parse::field_error::FieldError;
use crate::config::parse::section::ConfigSection;
use crate::config::yaml::YamlValue;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The minute after the last one of a day: `24:00`.
const END_OF_DAY_MINUTE: u16 = 24 * 60;

pub(crate) fn parse_windows(rollout: &mut ConfigSection<'_>) -> Vec<PromotionWindow> {
    rollout.read_sections("windows").into_iter().filter_map(parse_window).collect()
}

fn parse_window(mut window: ConfigSection<'_>) -> Option<PromotionWindow> {
    let is_list =
        window.find_node("days").is_some_and(|node| matches!(node.value, YamlValue::List(_)));
    let mut days: Vec<u8> = if is_list {
        if window.is_empty_list("days") {
            window.add_problem(
                "days",
                "is empty: the window would never open",
                "write `mon-fri`, or delete the line for every day",
            );
        }
        window.read_list("days", Vec::new(), parse_weekdays).concat()
    } else {
        window.read_or_default("days", (0..7).collect(), parse_weekdays)
    };
    days.sort_unstable();
    days.dedup();
    let hours = window.read_or_default("hours", (0, END_OF_DAY_MINUTE), parse_hours);
    if !window.has_key("days") && !window.has_key("hours") {
        let hint = "write them, such as `days: mon-fri` and `hours: \"09:00-17:00\"`";
        window.add_section_problem(FieldError::new("has neither `days` nor `hours`", hint));
    }
    let zone = window.read_required(
        "tz",
        "write the time zone of its hours, such as `tz: Europe/Berlin` or `tz: UTC`",
        parse_time_zone,
    );
    zone.map(|zone| PromotionWindow { weekdays: days, minutes_of_day: hours, time_zone: zone })
}

/// Parses `mon-fri`, `sat-mon` or `sat` into weekdays; Monday is 0.
fn parse_weekdays(text: &str) -> Result<Vec<u8>, FieldError> {
    let wrong = || {
        let hint =
            "write `mon-fri`, `sat` or `[mon, wed]`, of mon, tue, wed, thu, fri, sat and sun";
        FieldError::new(format!("{} are no days", quote_for_message(text)), hint)
    };
    let day = |text: &str| {
        (0u8..)
            .zip(WEEKDAYS)
            .find(|(_, day)| day.eq_ignore_ascii_case(text.trim()))
            .map(|(at, _)| at)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first).ok_or_else(wrong)?, day(last).ok_or_else(wrong)?);
    Ok((0..=(last + 7 - first) % 7).map(|offset| (first + offset) % 7).collect())
}

/// Parses `09:00-17:00`, or `22:00-06:00` over midnight, into minutes of the day.
fn parse_hours(text: &str) -> Result<(u16, u16), FieldError> {
    let hint = "write them as `09:00-17:00`, or `22:00-06:00` over midnight";
    let wrong = || FieldError::new(format!("{} are no hours", quote_for_message(text)), hint);
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (
        parse_minute_of_day(from.trim()).ok_or_else(wrong)?,
        parse_minute_of_day(to.trim()).ok_or_else(wrong)?,
    );
    match (from, to) {
        (END_OF_DAY_MINUTE, _) => Err(wrong()),
        (from, to) if from == to => Err(FieldError::new(
            format!("{} never opens", quote_for_message(text)),
            "write `00:00-24:00` for the whole day",
        )),
        // A window that ends at 00:00 ends with the day that it begins on.
        (from, 0) => Ok((from, END_OF_DAY_MINUTE)),
        hours => Ok(hours),
    }
}

/// Parses `HH:MM` into a minute of the day; `24:00` is the end of the day.
fn parse_minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let parse_digits = |text: &str, length: std::ops::RangeInclusive<usize>| {
        let digits = length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (parse_digits(hour, 1..=2)?, parse_digits(minute, 2..=2)?);
    (minute < 60 && hour * 60 + minute <= END_OF_DAY_MINUTE).then_some(hour * 60 + minute)
}

fn parse_time_zone(text: &str) -> Result<TimeZone, FieldError> {
    let hint = "write a name of the time zone database, such as `Europe/Berlin` or `UTC`";
    TimeZone::get(text).map_err(|_| {
        FieldError::new(format!("{} is not a time zone", quote_for_message(text)), hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_a_weekday_or_a_range_of_weekdays() {
        for (text, expected) in [
            ("mon-fri", &[0, 1, 2, 3, 4][..]),
            ("sat-mon", &[5, 6, 0]),
            ("Sun", &[6]),
            ("wed - wed", &[2]),
            ("tue-mon", &[1, 2, 3, 4, 5, 6, 0]),
        ] {
            assert_eq!(parse_weekdays(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "monday", "mon-", "mon-fri-sat", "1-5"] {
            assert!(parse_weekdays(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hours_are_times_of_a_day() {
        for (text, expected) in [
            ("09:00-17:00", (540, 1020)),
            ("9:00 - 17:30", (540, 1050)),
            ("22:00-06:00", (1320, 360)),
            ("00:00-24:00", (0, 1440)),
            ("22:00-00:00", (1320, 1440)),
        ] {
            assert_eq!(parse_hours(text), Ok(expected), "{text}");
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
            assert!(parse_hours(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parse_hours("09:00-09:00").map_err(|wrong| wrong.message),
            Err("`09:00-09:00` never opens".into())
        );
        assert_eq!(
            parse_hours("00:00-00:00").map_err(|wrong| wrong.hint),
            Err("write `00:00-24:00` for the whole day".into())
        );
    }

    #[test]
    fn zones_are_those_of_the_database() {
        assert_eq!(
            parse_time_zone("Europe/Berlin").map(|zone| zone.iana_name().map(str::to_owned)),
            Ok(Some("Europe/Berlin".into()))
        );
        assert!(parse_time_zone("UTC").is_ok());
        for bad in ["", "Berlin", "../etc/passwd", "local"] {
            assert!(parse_time_zone(bad).is_err(), "{bad}");
        }
    }
}
