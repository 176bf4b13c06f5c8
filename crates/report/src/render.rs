//! A scene as SVG and as PNG, both through plotters' backends from one piece of code.

use crate::fonts;
use crate::scene::{Anchor, Color, Point, Scene, Shape, Text};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontStyle, FontTransform, IntoFont, RGBAColor, ShapeStyle, TextStyle};
use std::path::Path;

/// Backend pixels a logical pixel: backends count in whole pixels, and a PNG should be sharp in print.
const SCALE: f64 = 2.0;

/// The scene as SVG text. Coordinates are twice the size for precision; the displayed size is the scene's.
///
/// # Errors
/// The backend's message.
pub fn svg(scene: &Scene) -> Result<String, String> {
    let mut text = String::new();
    let (width, height) = pixels(scene);
    draw(scene, SVGBackend::with_string(&mut text, (width, height)), 0.0)?;
    let full = format!("<svg width=\"{width}\" height=\"{height}\"");
    let shown = format!("<svg width=\"{}\" height=\"{}\"", f64::from(width) / SCALE, f64::from(height) / SCALE);
    Ok(text.replacen(&full, &shown, 1))
}

/// Writes the scene as PNG to `path`, whose name must end in `.png`.
///
/// # Errors
/// The backend's message.
pub fn png(scene: &Scene, path: &Path) -> Result<(), String> {
    // plotters' bitmap text sits this share of the em above its SVG text.
    draw(scene, BitMapBackend::new(path, pixels(scene)), 0.14)
}

fn pixels(scene: &Scene) -> (u32, u32) {
    ((scene.width * SCALE).ceil() as u32, (scene.height * SCALE).ceil() as u32)
}

fn draw<Backend: DrawingBackend>(scene: &Scene, mut backend: Backend, text_drop: f64) -> Result<(), String> {
    fonts::register()?;
    let (width, height) = backend.get_size();
    let paper = style(crate::scene::PAPER, 1.0);
    backend.draw_rect((0, 0), (width as i32, height as i32), &paper, true).map_err(|e| e.to_string())?;
    for shape in &scene.shapes {
        draw_shape(shape, &mut backend, text_drop)?;
    }
    backend.present().map_err(|e| e.to_string())
}

/// `text_drop` moves text downwards as read, in ems.
fn draw_shape<Backend: DrawingBackend>(shape: &Shape, backend: &mut Backend, text_drop: f64) -> Result<(), String> {
    let drawn = match shape {
        Shape::Line { points, color, width } => backend.draw_path(points.iter().map(place), &style(*color, *width)),
        Shape::Area { points, color } => backend.fill_polygon(points.iter().map(place), &style(*color, 1.0)),
        Shape::Disc { center, radius, color } => {
            backend.draw_circle(place(center), (radius * SCALE).round() as u32, &style(*color, 1.0), true)
        }
        Shape::Text(text) => {
            let ((x, y), drop) = (text.at, text_drop * text.size);
            let at = if text.upwards { (x + drop, y) } else { (x, y + drop) };
            backend.draw_text(&text.text, &text_style(text), place(&at))
        }
    };
    drawn.map_err(|e| e.to_string())
}

fn text_style(text: &Text) -> TextStyle<'static> {
    let weight = if text.bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = (fonts::FAMILY, text.size * SCALE * fonts::PLOTTERS_UNITS, weight).into_font();
    let font = if text.upwards { font.transform(FontTransform::Rotate270) } else { font };
    let h_pos = match text.anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    TextStyle { font, color: rgba(text.color).to_backend_color(), pos: Pos::new(h_pos, VPos::Center) }
}

fn place(&(x, y): &Point) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

fn rgba(color: Color) -> RGBAColor {
    let (red, green, blue) = color.rgb;
    RGBAColor(red, green, blue, color.alpha)
}

fn style(color: Color, width: f64) -> ShapeStyle {
    ShapeStyle { color: rgba(color), filled: true, stroke_width: (width * SCALE).round().max(1.0) as u32 }
}
