mod fixture;
mod phases;
mod properties;
mod steps;
