//! The manifest.
mod coding;
mod edit;
mod state;
