//! Parts of explanations as text: names, reasons and promotion windows.

use crate::config::PromotionWindow;

/// ` because …`, or nothing where no reason was given.
pub(super) fn format_reason_clause(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" because {reason}") }
}

/// The first few names, and how many more there are.
pub(super) fn format_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `mon, tue 09:00-17:00 (Europe/Berlin)`
pub(super) fn format_window(window: &PromotionWindow) -> String {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let days = window.weekdays.iter().filter_map(|day| DAYS.get(usize::from(*day)).copied());
    let clock = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let zone = window.time_zone.iana_name().unwrap_or("UTC");
    format!(
        "{} {}-{} ({zone})",
        days.collect::<Vec<_>>().join(", "),
        clock(window.minutes_of_day.0),
        clock(window.minutes_of_day.1)
    )
}
