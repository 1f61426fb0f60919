//! `lambda-dpo report`
