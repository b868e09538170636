//! Drawing, the same for every back end.

use crm_core::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::text::{FAMILY, cut, ready, style, width, wrap};
use super::{Bars, Chart, MOST_POINTS, Profile, Scatter};
use crate::insights::figure;
use crate::sample::sample_rows;

/// Okabe and Ito's colours (2008), the yellow darkened to be seen on white.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xb8, 0xa9, 0x00),
    RGBColor(0x33, 0x33, 0x33),
];
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0x66, 0x66, 0x66);
const LINE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const NOBODY: RGBColor = RGBColor(0xaa, 0xaa, 0xaa);

type Area<DB> = DrawingArea<DB, Shift>;

/// What the drawing library says when it cannot.
fn classify<E: std::error::Error + Send + Sync + 'static>(error: E) -> Error {
    Error::unexpected("the picture could not be drawn; please report it")
        .operation("plot.draw")
        .source(error)
}

pub(super) fn svg(chart: &Chart, width: u32, height: u32) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        draw(chart, &area)?;
        area.present().map_err(classify)?;
    }
    // Viewers do not know our font's name; quotes within text are escaped, so that only attributes match.
    let svg = svg.replace(&format!("font-family=\"{FAMILY}\""), "font-family=\"sans-serif\"");
    let title = escape(&super::text::plain(chart.title()));
    let named = |start: usize| -> Option<String> {
        let (head, rest) = svg.split_at_checked(start + 1)?;
        Some(format!(
            "{} role=\"img\"><title>{title}</title>{rest}",
            head.strip_suffix('>')?
        ))
    };
    svg.find('>')
        .and_then(named)
        .ok_or_else(|| Error::unexpected("an SVG without a head").operation("plot.draw"))
}

pub(super) fn png(chart: &Chart, width: u32, height: u32) -> Result<Vec<u8>> {
    let mut pixels = vec![0; width as usize * height as usize * 3];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw(chart, &area)?;
        area.present().map_err(classify)?;
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(classify)?;
    writer.write_image_data(&pixels).map_err(classify)?;
    writer.finish().map_err(classify)?;
    Ok(file)
}

/// Text within HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Sizes of one picture: everything grows with it.
struct Page {
    width: i32,
    text: f64,
}

impl Page {
    /// A line's height at a text size.
    fn line(&self) -> i32 {
        (self.text * 1.35) as i32
    }
}

fn draw<DB: DrawingBackend>(chart: &Chart, area: &Area<DB>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    ready()?;
    area.fill(&WHITE).map_err(classify)?;
    let (width, height) = area.dim_in_pixel();
    let text = (f64::from(width).min(f64::from(height) * 1.6) / 62.0).clamp(9.0, 120.0);
    let page = Page {
        width: width as i32,
        text,
    };
    let (title, note) = match chart {
        Chart::Scatter(chart) => (&chart.title, &chart.note),
        Chart::Bars(chart) => (&chart.title, &chart.note),
        Chart::Profile(chart) => (&chart.title, &chart.note),
    };
    let margin = page.line();
    let large = style(page.text * 1.45, INK);
    write(
        area,
        &cut(title, &large, page.width - 2 * margin),
        (margin, margin * 2 / 3),
        &large,
    )?;
    let mut top = margin * 2 / 3 + page.line() * 3 / 2;
    let mut note = note.clone();
    if let Chart::Scatter(chart) = chart
        && chart.points.len() > MOST_POINTS
    {
        let part = format!(
            "{} of {} points drawn",
            figure(MOST_POINTS as f64),
            figure(chart.points.len() as f64)
        );
        note = if note.is_empty() {
            part
        } else {
            format!("{note}; {part}")
        };
    }
    if !note.is_empty() {
        let small = style(page.text * 0.95, FAINT);
        write(
            area,
            &cut(&note, &small, page.width - 2 * margin),
            (margin, top),
            &small,
        )?;
        top += page.line();
    }
    let body = area.margin(top + margin / 2, margin, margin, margin);
    let (_, room) = body.dim_in_pixel();
    if room < 4 * margin as u32 {
        return Err(Error::invalid("the picture is too low for its chart").operation("plot.draw"));
    }
    match chart {
        Chart::Scatter(chart) => scatter(chart, &body, &page),
        Chart::Bars(chart) => bars(chart, &body, &page),
        Chart::Profile(chart) => profile(chart, &body, &page),
    }
}

fn write<DB: DrawingBackend>(area: &Area<DB>, text: &str, at: (i32, i32), style: &TextStyle<'_>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    if text.is_empty() {
        return Ok(());
    }
    area.draw_text(text, style, at).map_err(classify)
}

fn color(group: Option<usize>) -> RGBColor {
    group
        .and_then(|group| PALETTE.get(group % PALETTE.len()))
        .copied()
        .unwrap_or(NOBODY)
}

/// Colours repeat after eight groups; the shape changes then.
fn mark<DB: DrawingBackend>(area: &Area<DB>, at: (i32, i32), size: i32, group: Option<usize>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let fill = color(group).mix(0.65).filled();
    match group.map_or(0, |group| group / PALETTE.len()) % 3 {
        0 => area.draw(&Circle::new(at, size, fill)),
        1 => area.draw(&TriangleMarker::new(at, size + 1, fill)),
        _ => area.draw(&Rectangle::new(
            [(at.0 - size, at.1 - size), (at.0 + size, at.1 + size)],
            fill,
        )),
    }
    .map_err(classify)
}

/// From the least to the greatest with a little room; never empty.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low {
        (high - low) * 0.04
    } else {
        low.abs().max(1.0) * 0.1
    };
    low - room..high + room
}

fn scatter<DB: DrawingBackend>(chart: &Scatter, area: &Area<DB>, page: &Page) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let (full, _) = area.dim_in_pixel();
    let (plane, legend) = area.split_horizontally((full as i32) * 70 / 100);
    let small = style(page.text * 0.9, INK);
    let mut built = ChartBuilder::on(&plane)
        .x_label_area_size(page.line() * 5 / 2)
        .y_label_area_size(page.line() * 7 / 2)
        .build_cartesian_2d(
            range(chart.points.iter().map(|(x, _, _)| *x)),
            range(chart.points.iter().map(|(_, y, _)| *y)),
        )
        .map_err(classify)?;
    let (plane_width, plane_height) = plane.dim_in_pixel();
    let x_label = cut(&chart.x_label, &small, plane_width as i32 - page.line() * 7 / 2);
    let y_label = cut(&chart.y_label, &small, plane_height as i32 - page.line() * 5 / 2);
    built
        .configure_mesh()
        .x_labels(7)
        .y_labels(7)
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&|v| figure(*v))
        .y_label_formatter(&|v| figure(*v))
        .label_style(style(page.text * 0.85, FAINT))
        .axis_desc_style(small.clone())
        .axis_style(FAINT)
        .bold_line_style(LINE)
        .light_line_style(WHITE)
        .draw()
        .map_err(classify)?;
    let size = ((page.text / 5.5) as i32).max(2);
    let pixel = built.as_coord_spec().clone();
    for row in sample_rows(chart.points.len(), MOST_POINTS, 0, 0xd0) {
        if let Some((x, y, group)) = chart.points.get(row) {
            let (left, top) = plotters::coord::CoordTranslate::translate(&pixel, &(*x, *y));
            // The plane's own pixels are counted from the page's corner.
            let (origin_x, origin_y) = plane.get_base_pixel();
            mark(&plane, (left - origin_x, top - origin_y), size, *group)?;
        }
    }

    let line = page.line();
    let (legend_width, legend_height) = legend.dim_in_pixel();
    let room = legend_width as i32 - line * 5 / 2;
    let faint = style(page.text * 0.85, FAINT);
    let mut y = 0;
    for (at, (name, below)) in chart.groups.iter().enumerate() {
        let lines = wrap(name, &small, room, 3);
        let needed = line * (lines.len() as i32 + 1) + line * 2 / 3;
        if y + needed > legend_height as i32 {
            write(
                &legend,
                &format!("and {} more", chart.groups.len() - at),
                (line * 2, y),
                &faint,
            )?;
            break;
        }
        mark(&legend, (line, y + line / 2), size * 2, Some(at))?;
        for text in &lines {
            write(&legend, text, (line * 2, y), &small)?;
            y += line;
        }
        write(&legend, &cut(below, &faint, room), (line * 2, y), &faint)?;
        y += line * 5 / 3;
    }
    Ok(())
}

fn bars<DB: DrawingBackend>(chart: &Bars, area: &Area<DB>, page: &Page) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let (full, height) = area.dim_in_pixel();
    let (full, height) = (full as i32, height as i32);
    let (names, values) = (style(page.text, INK), style(page.text * 0.95, FAINT));
    let line = page.line();
    let label = chart
        .bars
        .iter()
        .map(|bar| width(&bar.label, &values))
        .max()
        .unwrap_or(0)
        .min(full / 4);
    let left = full * 32 / 100;
    let room = full - left - label - line;
    let most = chart.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let step = (height / (chart.bars.len() as i32).max(1)).min(line * 4);
    if step < line {
        return Err(
            Error::invalid("the picture is too low for its bars; make it higher")
                .operation("plot.draw")
                .with("bars", chart.bars.len()),
        );
    }
    for (at, bar) in chart.bars.iter().enumerate() {
        let middle = step * at as i32 + step / 2;
        let thick = (step * 6 / 10).min(line * 2);
        let lines = wrap(
            &bar.name,
            &names,
            left - line,
            ((step / line) as usize).clamp(1, 2),
        );
        let first = middle - line * lines.len() as i32 / 2;
        for (i, text) in lines.iter().enumerate() {
            write(area, text, (0, first + line * i as i32 + line / 8), &names)?;
        }
        let length = if most > 0.0 {
            (f64::from(room) * bar.value / most) as i32
        } else {
            0
        };
        let corners = [
            (left, middle - thick / 2),
            (left + length.max(1), middle + thick / 2),
        ];
        area.draw(&Rectangle::new(corners, color(Some(at)).filled()))
            .map_err(classify)?;
        let text = cut(&bar.label, &values, label);
        write(
            area,
            &text,
            (left + length + line / 2, middle - line / 2 + line / 8),
            &values,
        )?;
    }
    Ok(())
}

/// White at 0, orange above, blue below; full at 2 standard deviations.
fn diverging(effect: f64) -> RGBColor {
    let part = (effect.abs() / 2.0).min(1.0);
    let RGBColor(r, g, b) = if effect < 0.0 {
        RGBColor(0x3d, 0x94, 0xcc)
    } else {
        RGBColor(0xee, 0x8a, 0x3a)
    };
    let mix = |full: u8| (255.0 + (f64::from(full) - 255.0) * part).round() as u8;
    RGBColor(mix(r), mix(g), mix(b))
}

fn profile<DB: DrawingBackend>(chart: &Profile, area: &Area<DB>, page: &Page) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let (full, height) = area.dim_in_pixel();
    let (full, height) = (full as i32, height as i32);
    let line = page.line();
    let left = full * 28 / 100;
    let cell = (full - left) / (chart.columns.len() as i32).max(1);
    let header = line * 3;
    let step = ((height - header) / (chart.rows.len() as i32).max(1)).min(line * 4);
    if step < line || cell < line * 2 {
        return Err(
            Error::invalid("the picture is too small for its rows and columns; make it larger")
                .operation("plot.draw")
                .with("rows", chart.rows.len())
                .with("columns", chart.columns.len()),
        );
    }
    let (names, numbers) = (style(page.text, INK), style(page.text * 0.95, INK));
    let heads = style(page.text * 0.9, FAINT);
    let bottom = Pos::new(HPos::Center, VPos::Bottom);
    for (at, column) in chart.columns.iter().enumerate() {
        let lines = wrap(
            column.strip_prefix("attributes.").unwrap_or(column),
            &heads,
            cell - line / 2,
            2,
        );
        for (i, text) in lines.iter().rev().enumerate() {
            let place = (
                left + cell * at as i32 + cell / 2,
                header - line / 2 - line * i as i32,
            );
            write(area, text, place, &heads.clone().pos(bottom))?;
        }
    }
    let centre = Pos::new(HPos::Center, VPos::Center);
    for (at, row) in chart.rows.iter().enumerate() {
        let top = header + step * at as i32;
        let lines = wrap(
            &row.name,
            &names,
            left - line,
            ((step / line) as usize).clamp(1, 2),
        );
        let first = top + step / 2 - line * lines.len() as i32 / 2;
        for (i, text) in lines.iter().enumerate() {
            write(area, text, (0, first + line * i as i32 + line / 8), &names)?;
        }
        for (col, (label, effect)) in row.labels.iter().zip(&row.effects).enumerate() {
            let corner = (left + cell * col as i32, top);
            let corners = [corner, (corner.0 + cell - 2, corner.1 + step - 2)];
            area.draw(&Rectangle::new(corners, diverging(*effect).filled()))
                .map_err(classify)?;
            area.draw(&Rectangle::new(corners, LINE)).map_err(classify)?;
            let text = cut(label, &numbers, cell - line / 2);
            write(
                area,
                &text,
                (corner.0 + cell / 2, corner.1 + step / 2),
                &numbers.clone().pos(centre),
            )?;
        }
    }
    Ok(())
}
