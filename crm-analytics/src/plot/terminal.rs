//! Charts made of letters.

use super::Chart;

pub(super) fn write(chart: &Chart, columns: usize) -> String {
    let _ = columns;
    chart.title().to_owned()
}
