//! What crosses a border: records, frames and push batches, and their schemas.
