//! A worse network than there is, for measuring: messages that arrive late,
//! and an uplink that all links of a node share.
//!
//! It is logic on due times alone: a message is due when the uplink has sent
//! it, after all that was queued before on any link, and the latency has passed
//! on top. Whoever writes a link waits until the next message of that link is
//! due; messages that are under way do not wait for each other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One node's shaped uplink.
#[derive(Debug)]
pub struct Shape {
    latency: Duration,
    /// bytes per second; none: no limit
    rate: Option<f64>,
    /// until when the uplink is busy with what was queued
    busy: Mutex<Option<Instant>>,
}

impl Shape {
    /// Delays each message by `latency`, and sends at most `rate` bytes per
    /// second over all links together; a rate that is not positive is no limit.
    pub fn new(latency: Duration, rate: Option<f64>) -> Self {
        Self { latency, rate: rate.filter(|rate| *rate > 0.0), busy: Mutex::new(None) }
    }

    /// When a message of `bytes` that is queued `now` has arrived as a whole.
    pub(super) fn due(&self, now: Instant, bytes: usize) -> Instant {
        let Some(rate) = self.rate else { return now + self.latency };
        let takes = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(FOREVER).min(FOREVER);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = busy.map_or(now, |until| until.max(now)) + takes;
        *busy = Some(sent);
        sent + self.latency
    }
}

/// Longer than any job; no moment is past what the clock can hold.
const FOREVER: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_is_paid_once_and_bandwidth_by_all() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let shape = Shape::new(Duration::from_millis(20), Some(1e6));
        // Two links, one uplink: the second waits for the first, not for its latency.
        assert_eq!(shape.due(now, 10_000), after(30));
        assert_eq!(shape.due(now, 10_000), after(40));
        // An uplink that has been idle saves nothing up.
        assert_eq!(shape.due(after(1000), 1000), after(1021));
    }

    #[test]
    fn without_a_rate_messages_only_come_late() {
        let now = Instant::now();
        for rate in [None, Some(0.0), Some(-1.0), Some(f64::NAN)] {
            let shape = Shape::new(Duration::from_millis(5), rate);
            assert_eq!(shape.due(now, usize::MAX), now + Duration::from_millis(5));
            assert_eq!(shape.due(now, 1), now + Duration::from_millis(5));
        }
        // A rate of almost nothing is no panic.
        assert!(Shape::new(Duration::ZERO, Some(1e-300)).due(now, 1) > now);
    }
}
