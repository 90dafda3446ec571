mod previous_build;
mod round_trip;
mod unknown;
