//! The finished binary, driven from outside by the real kubectl, and the rules of the house.

mod cluster;
mod containers;
mod hollow;
mod options;
mod tidy;
