//! Tests of the machine: scenarios, and a reference model under random operations.

mod bounds;
mod model;
mod outage;
mod pushes;
mod random;
mod scenes;
mod world;
