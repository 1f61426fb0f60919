//! Plots as SVG: curves, Pareto fronts and bars, each with labelled axes and a legend below that covers no point.
//!
//! Plots have no background and take up the width they are given, for a page, whose style colours their text and
//! axes.
//!
//! | module | what |
//! |---|---|
//! | `labels` | title, axes, and the numbers along them |
//! | `pen` | the colours and dashes that tell series apart |
//! | `canvas` | the area of a plot, with its legend below |
//! | `curves` | lines through points |
//! | `bars` | bars with names |

mod labels;
mod pen;
mod canvas;
mod curves;
mod bars;

pub use bars::{Bar, Bars, bars};
pub use curves::{Series, curves, front, lines};
pub use labels::Labels;
