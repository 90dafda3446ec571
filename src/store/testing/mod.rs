//! Faults around store calls: in unit tests (`faulty`), and in test builds of the program with the
//! cargo feature `failpoints`.

#[cfg(feature = "failpoints")]
mod failpoints;
#[cfg(test)]
mod faulty;
mod intercept;

#[cfg(feature = "failpoints")]
pub(super) use self::failpoints::arm_failpoints;
#[cfg(test)]
pub(crate) use self::faulty::FaultyStore;
