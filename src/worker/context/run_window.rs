//! How long the attempts of the last ten minutes ran.

use std::time::Duration;

/// The minutes that the window covers.
const WINDOW_MINUTES: usize = 10;

/// The attempts of the last ten minutes, counted by the minute in which they ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunWindow {
    minutes: [MinuteOfRuns; WINDOW_MINUTES],
}

/// The attempts that ended in one minute.
#[derive(Clone, Copy, Debug, Default)]
struct MinuteOfRuns {
    /// The number of the minute since the process started.
    minute: usize,
    runs: u32,
    total_time: Duration,
}

// === impl RunWindow ===

impl RunWindow {
    /// Adds an attempt that ended at `uptime` (the time since the process started) after `took`.
    pub(crate) fn add_run(&mut self, uptime: Duration, took: Duration) {
        let minute = minute_of(uptime);
        let slot = &mut self.minutes[minute % WINDOW_MINUTES];
        if slot.minute != minute {
            *slot = MinuteOfRuns { minute, ..MinuteOfRuns::default() };
        }
        slot.runs = slot.runs.saturating_add(1);
        slot.total_time = slot.total_time.saturating_add(took);
    }

    /// The number of attempts in the ten minutes before `uptime`, and the sum of their durations.
    pub(crate) fn totals(&self, uptime: Duration) -> (u32, Duration) {
        let minute = minute_of(uptime);
        let recent = self.minutes.iter().filter(|slot| slot.minute + WINDOW_MINUTES > minute);
        recent.fold((0, Duration::ZERO), |(runs, time), slot| {
            (runs.saturating_add(slot.runs), time.saturating_add(slot.total_time))
        })
    }
}

fn minute_of(uptime: Duration) -> usize {
    usize::try_from(uptime.as_secs() / 60).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_leave_the_window_after_ten_minutes() {
        let (mut window, second) = (RunWindow::default(), Duration::from_secs);
        window.add_run(second(1), second(2));
        window.add_run(second(59), second(4));
        window.add_run(second(300), second(6));
        assert_eq!(window.totals(second(301)), (3, second(12)));
        assert_eq!(window.totals(second(599)), (3, second(12)));
        assert_eq!(window.totals(second(600)), (1, second(6)));
        window.add_run(second(601), second(1)); // in the place of the first minute
        assert_eq!(window.totals(second(601)), (2, second(7)));
        assert_eq!(window.totals(second(10_000)), (0, Duration::ZERO));
    }
}
