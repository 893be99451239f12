//! Holds the pure fold to the rules of presence: case by case, and on random logs against a model.

mod cases;
mod log;
mod model;
mod properties;
mod rules;
