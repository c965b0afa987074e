//! How the learning rate changes over a run.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The course of the learning rate after the warm-up, a function of the step and the number of steps alone.
///
/// With s the steps since the warm-up and S those from there to the end, the learning rate is multiplied by
///
/// | text | share |
/// |---|---|
/// | `constant` | 1 |
/// | `step:EVERY:FACTOR` | FACTOR^⌊s / EVERY⌋ |
/// | `poly` or `poly:POWER` | (1 − s/S)^POWER, by default 0.9 |
/// | `cosine` | ½ (1 + cos(π s/S)) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls by a factor again and again.
    Step {
        /// Steps between two falls, at least 1.
        every: u32,
        /// What it is multiplied by, above 0 and at most 1.
        factor: f32,
    },
    /// It falls to 0 by a power of what is left of the run.
    Poly {
        /// The power, above 0.
        power: f32,
    },
    /// It falls to 0 by half a wave (Loshchilov and Hutter, *SGDR*, 2017, without restarts).
    Cosine,
}

/// The usual power.
const POWER: f32 = 0.9;

impl Schedule {
    /// The share of the learning rate at a step, counted from 0, in a run of `steps`: as the table says, and besides rising
    /// linearly over the first `warmup` steps and falling linearly to 0 over the last `cooldown`.
    pub fn share(self, step: u32, steps: u32, warmup: u32, cooldown: u32) -> f64 {
        let rising = (f64::from(step) + 1.0) / f64::from(warmup.max(1));
        let falling = f64::from(steps.saturating_sub(step)) / f64::from(cooldown.max(1));
        let since = f64::from(step.saturating_sub(warmup));
        let left = f64::from(steps.saturating_sub(warmup).max(1));
        let done = (since / left).min(1.0);
        let course = match self {
            Self::Constant => 1.0,
            Self::Step { every, factor } => f64::from(factor).powf((since / f64::from(every)).floor()),
            Self::Poly { power } => (1.0 - done).powf(f64::from(power)),
            Self::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * done).cos(),
        };
        course * rising.min(falling).clamp(0.0, 1.0)
    }

    /// Refuses numbers that make no sense.
    ///
    /// # Errors
    /// What they may be.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Step { every: 0, .. } => Err("the steps between two falls must be at least 1".into()),
            Self::Step { factor, .. } if !(factor > 0.0 && factor <= 1.0) => {
                Err(format!("the factor must be above 0 and at most 1, got {factor}"))
            }
            Self::Poly { power } if !(power > 0.0 && power.is_finite()) => {
                Err(format!("the power must be above 0, got {power}"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse::<f32>().map_err(|_| format!("`{part}` in `{text}` is no number"));
        let schedule = match parts[..] {
            ["constant"] => Self::Constant,
            ["step", every, factor] => {
                let every = every.parse().map_err(|_| format!("`{every}` in `{text}` is no number of steps"))?;
                Self::Step { every, factor: number(factor)? }
            }
            ["poly"] => Self::Poly { power: POWER },
            ["poly", power] => Self::Poly { power: number(power)? },
            ["cosine"] => Self::Cosine,
            _ => {
                return Err(format!(
                    "`{text}` is no schedule; expected constant, step:EVERY:FACTOR such as step:1000:0.1, poly, poly:POWER or \
                     cosine"
                ));
            }
        };
        schedule.check().map(|()| schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Step { every, factor } => write!(f, "step:{every}:{factor}"),
            Self::Poly { power } => write!(f, "poly:{power}"),
            Self::Cosine => f.write_str("cosine"),
        }
    }
}

impl TryFrom<String> for Schedule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str, steps: u32, warmup: u32, cooldown: u32) -> Vec<f64> {
        let schedule: Schedule = text.parse().unwrap();
        (0..steps).map(|step| schedule.share(step, steps, warmup, cooldown)).collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        let equal = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7);
        assert!(found.len() == expected.len() && equal, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn values_worked_by_hand() {
        close(&shares("constant", 4, 0, 0), &[1.0; 4]);
        close(&shares("step:2:0.1", 6, 0, 0), &[1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
        close(&shares("poly:2", 4, 0, 0), &[1.0, 0.5625, 0.25, 0.0625]);
        close(&shares("poly", 2, 0, 0), &[1.0, 0.5_f64.powf(0.9)]);
        close(&shares("cosine", 4, 0, 0), &[1.0, 0.853_553_390_6, 0.5, 0.146_446_609_4]);
    }

    #[test]
    fn every_course_begins_after_the_warm_up_and_ends_with_the_cooldown() {
        close(&shares("constant", 6, 4, 0), &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        close(&shares("constant", 6, 0, 4), &[1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
        close(&shares("step:2:0.5", 6, 2, 0), &[0.5, 1.0, 1.0, 1.0, 0.5, 0.5]);
        close(&shares("poly:1", 6, 2, 0), &[0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        close(&shares("cosine", 6, 2, 2), &[0.5, 1.0, 1.0, 0.853_553_390_6, 0.5, 0.073_223_304_7]);
        // More warm-up than steps, and a step past the end.
        close(&shares("cosine", 2, 8, 0), &[0.125, 0.25]);
        for text in ["constant", "step:2:0.5", "poly", "cosine"] {
            let share = text.parse::<Schedule>().unwrap().share(9, 6, 2, 2);
            assert!((0.0..=1.0).contains(&share), "{text}: {share}");
        }
    }

    #[test]
    fn texts_come_back_and_senseless_ones_are_named() {
        for text in ["constant", "step:1000:0.1", "poly:0.9", "cosine"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        for (text, part) in [
            ("linear", "expected constant, step:EVERY:FACTOR"),
            ("step", "such as step:1000:0.1"),
            ("step:0:0.1", "at least 1"),
            ("step:10:2", "at most 1, got 2"),
            ("step:x:0.1", "`x`"),
            ("poly:-1", "above 0, got -1"),
            ("poly:p", "`p`"),
        ] {
            let problem = text.parse::<Schedule>().unwrap_err();
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}
