//! The target language: which slots of a model a method attaches to.
//!
//! A target expression is one term or a list of terms. A term is
//! * a suffix, as in Hugging Face PEFT: `q_proj`, `mixer.in_proj`, or a row part `in_proj.x`;
//! * a glob over whole paths: `model.layers.*.mlp.*`;
//! * a role or a group: `role:in_proj`, `role:linear`, `group:attention`, `group:ssm`, `group:mlp`, `group:norm`;
//! * any of these after `!`, which takes away what it matches.
//!
//! A term that matches nothing is an error that names the nearest thing it could have meant.

use crate::error::{Result, SpecError};
use crate::suggest;
use globset::Glob;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeSet;

/// What a slot computes in its model, one vocabulary over all architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // Each name is the Hugging Face name of the module or tensor.
pub enum Role {
    InProj,
    XProj,
    DtProj,
    OutProj,
    Conv1d,
    ALog,
    AImag,
    B,
    C,
    D,
    DtBias,
    LogDt,
    QProj,
    KProj,
    VProj,
    QkvProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
    Router,
    Norm,
    Embedding,
    LmHead,
    Prompt,
}

impl Role {
    /// Every role, in the order of the enum.
    pub const ALL: [Self; 25] = {
        use Role::*;
        [
            InProj, XProj, DtProj, OutProj, Conv1d, ALog, AImag, B, C, D, DtBias, LogDt, QProj, KProj, VProj, QkvProj, OProj, GateProj,
            UpProj, DownProj, Router, Norm, Embedding, LmHead, Prompt,
        ]
    };

    /// The name after `role:`.
    pub fn name(self) -> &'static str {
        use Role::*;
        match self {
            InProj => "in_proj",
            XProj => "x_proj",
            DtProj => "dt_proj",
            OutProj => "out_proj",
            Conv1d => "conv1d",
            ALog => "a_log",
            AImag => "a_imag",
            B => "b",
            C => "c",
            D => "d",
            DtBias => "dt_bias",
            LogDt => "log_dt",
            QProj => "q_proj",
            KProj => "k_proj",
            VProj => "v_proj",
            QkvProj => "qkv_proj",
            OProj => "o_proj",
            GateProj => "gate_proj",
            UpProj => "up_proj",
            DownProj => "down_proj",
            Router => "router",
            Norm => "norm",
            Embedding => "embedding",
            LmHead => "lm_head",
            Prompt => "prompt",
        }
    }

    /// The name after `group:`, for roles that belong to one.
    pub fn group(self) -> Option<&'static str> {
        use Role::*;
        match self {
            InProj | OutProj => Some("projections"),
            XProj | DtProj | Conv1d | ALog | AImag | B | C | D | DtBias | LogDt => Some("ssm"),
            QProj | KProj | VProj | QkvProj | OProj => Some("attention"),
            GateProj | UpProj | DownProj | Router => Some("mlp"),
            Norm => Some("norm"),
            Embedding | LmHead => Some("vocabulary"),
            Prompt => None,
        }
    }
}

/// The groups that `group:` knows.
const GROUPS: [&str; 6] = ["projections", "ssm", "attention", "mlp", "norm", "vocabulary"];

/// The kinds of place where a method can meet a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// A weight [out, in] applied to activations, perhaps with named row parts.
    Linear,
    /// Any raw tensor.
    Param,
    /// The output of a mixer, attention or MLP sub-layer.
    Sublayer,
    /// The embedded input sequence.
    Prompt,
    /// Keys and values of an attention layer.
    Prefix,
    /// An SSM layer's initial state.
    State,
}

/// One thing a term may match: a slot, or a named row part of a linear slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Path in the names of the Hugging Face checkpoint, with `.part` behind it for a row part.
    pub path: String,
    /// The slot's path where this is a row part of it.
    pub part_of: Option<String>,
    /// Layer index; none for embeddings, the last norm and the head.
    pub layer: Option<usize>,
    /// What it computes.
    pub role: Role,
    /// What kind of slot it is.
    pub kind: SlotKind,
}

/// A parsed target expression. The default, `default`, leaves the choice to the method.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetExpr {
    terms: Vec<String>,
}

/// One candidate that was selected, and the term that did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Index into the candidates.
    pub candidate: usize,
    /// The term, as written.
    pub term: String,
}

impl TargetExpr {
    /// An expression of these terms; an empty list is the method's default.
    pub fn new<S: Into<String>>(terms: impl IntoIterator<Item = S>) -> Self {
        Self { terms: terms.into_iter().map(Into::into).collect() }
    }

    /// Whether the choice is left to the method.
    pub fn is_default(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms, as written.
    pub fn terms(&self) -> &[String] {
        &self.terms
    }

    /// The expression as figures and tables name it.
    pub fn label(&self) -> String {
        if self.is_default() { "default".to_owned() } else { self.terms.join(",") }
    }

    /// Selects from `candidates`, in their order, each slot at most once: a row part is dropped where its whole slot is selected too.
    pub fn select(&self, candidates: &[Candidate]) -> Result<Vec<Match>> {
        let mut chosen: Vec<Option<&str>> = vec![None; candidates.len()];
        for term in self.terms.iter().filter(|t| !t.starts_with('!')) {
            for index in matches_of(term, candidates)? {
                chosen[index].get_or_insert(term);
            }
        }
        for term in self.terms.iter().filter_map(|t| t.strip_prefix('!')) {
            for index in matches_of(term, candidates)? {
                chosen[index] = None;
            }
        }
        let whole: BTreeSet<&str> =
            candidates.iter().zip(&chosen).filter(|(c, t)| t.is_some() && c.part_of.is_none()).map(|(c, _)| c.path.as_str()).collect();
        let selected = chosen.iter().enumerate().filter_map(|(candidate, term)| {
            let covered = candidates[candidate].part_of.as_deref().is_some_and(|slot| whole.contains(slot));
            term.filter(|_| !covered).map(|term| Match { candidate, term: term.to_owned() })
        });
        let selected: Vec<_> = selected.collect();
        match selected.is_empty() {
            true => Err(SpecError::at("targets", format!("`{}` selects nothing: every match is taken away by a `!` term", self.label()))),
            false => Ok(selected),
        }
    }
}

fn matches_of(term: &str, candidates: &[Candidate]) -> Result<Vec<usize>> {
    let hits = |test: &dyn Fn(&Candidate) -> bool| -> Vec<usize> { (0..candidates.len()).filter(|&i| test(&candidates[i])).collect() };
    let found = if let Some(role) = term.strip_prefix("role:") {
        let known = || Role::ALL.iter().map(|r| r.name()).chain(["linear"]);
        if !known().any(|name| name == role) {
            return Err(SpecError::at(
                "targets",
                format!("unknown role in `{term}`; {}", suggest::hint(role, known().collect::<Vec<_>>())),
            ));
        }
        hits(&|c| c.part_of.is_none() && if role == "linear" { is_layer_linear(c) } else { c.role.name() == role })
    } else if let Some(group) = term.strip_prefix("group:") {
        if !GROUPS.contains(&group) {
            return Err(SpecError::at("targets", format!("unknown group in `{term}`; {}", suggest::hint(group, GROUPS))));
        }
        hits(&|c| c.part_of.is_none() && c.role.group() == Some(group))
    } else if term.contains(['*', '?', '[', '{']) {
        let glob = Glob::new(term)
            .map_err(|error| SpecError::at("targets", format!("`{term}` is not a glob: {}", error.kind())))?
            .compile_matcher();
        hits(&|c| glob.is_match(&c.path))
    } else {
        hits(&|c| is_suffix(term, &c.path))
    };
    match found.is_empty() {
        true => Err(SpecError::at("targets", nothing_matches(term, candidates))),
        false => Ok(found),
    }
}

/// `role:linear` is what Hugging Face calls `all-linear`: the linears inside the layers, without the head.
fn is_layer_linear(candidate: &Candidate) -> bool {
    candidate.kind == SlotKind::Linear && candidate.layer.is_some()
}

/// Whether `term` names `path`, or its last segments, with or without a closing `.weight`.
fn is_suffix(term: &str, path: &str) -> bool {
    let ends = |path: &str| path.strip_suffix(term).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    ends(path) || path.strip_suffix(".weight").is_some_and(ends)
}

fn nothing_matches(term: &str, candidates: &[Candidate]) -> String {
    let mut names = BTreeSet::new();
    for candidate in candidates {
        let segments: Vec<&str> = candidate.path.split('.').filter(|s| s.parse::<usize>().is_err()).collect();
        let wanted = 1 + term.matches('.').count();
        for take in [wanted, wanted + 1] {
            names.insert(segments[segments.len().saturating_sub(take)..].join("."));
        }
    }
    format!("`{term}` matches nothing here; {}", suggest::hint(term, names.iter().map(String::as_str)))
}

impl Serialize for TargetExpr {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.is_default() { serializer.serialize_str("default") } else { self.terms.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for TargetExpr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        use serde_json::Value;
        match Value::deserialize(deserializer)? {
            Value::String(term) if term == "default" => Ok(Self::default()),
            Value::String(term) if !term.trim().is_empty() => Ok(Self::new([term])),
            Value::Array(items) if !items.is_empty() => {
                let terms: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
                terms.map(Self::new).ok_or_else(|| D::Error::custom("expected strings in the list of targets"))
            }
            other => Err(D::Error::custom(format!("expected `default`, a term, or a list of terms, found {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let mut all = Vec::new();
        for layer in 0..2 {
            let path = |name: &str| format!("backbone.layers.{layer}.mixer.{name}");
            let mut add = |name: &str, part_of: Option<String>, role, kind| {
                all.push(Candidate { path: path(name), part_of, layer: Some(layer), role, kind })
            };
            add("in_proj", None, Role::InProj, SlotKind::Linear);
            add("in_proj.x", Some(path("in_proj")), Role::InProj, SlotKind::Linear);
            add("in_proj.z", Some(path("in_proj")), Role::InProj, SlotKind::Linear);
            add("out_proj", None, Role::OutProj, SlotKind::Linear);
            add("A_log", None, Role::ALog, SlotKind::Param);
        }
        all.push(Candidate { path: "lm_head".into(), part_of: None, layer: None, role: Role::LmHead, kind: SlotKind::Linear });
        all
    }

    fn names(terms: &[&str]) -> Vec<String> {
        let all = candidates();
        let short = |path: &str| path.replace("backbone.layers.", "").replace("mixer.", "");
        TargetExpr::new(terms.iter().copied()).select(&all).unwrap().iter().map(|m| short(&all[m.candidate].path)).collect()
    }

    #[test]
    fn suffix_part_glob_role_group_and_negation() {
        assert_eq!(names(&["in_proj"]), ["0.in_proj", "1.in_proj"]);
        assert_eq!(names(&["in_proj.x"]), ["0.in_proj.x", "1.in_proj.x"]);
        assert_eq!(names(&["backbone.layers.1.*"]), ["1.in_proj", "1.out_proj", "1.A_log"]);
        assert_eq!(names(&["role:linear"]), ["0.in_proj", "0.out_proj", "1.in_proj", "1.out_proj"]);
        assert_eq!(names(&["group:ssm"]), ["0.A_log", "1.A_log"]);
        assert_eq!(names(&["*", "!in_proj", "!in_proj.x", "!in_proj.z", "!lm_head"]), ["0.out_proj", "0.A_log", "1.out_proj", "1.A_log"]);
    }

    #[test]
    fn what_matches_nothing_is_an_error_with_the_nearest_name() {
        let message = |term: &str| TargetExpr::new([term]).select(&candidates()).unwrap_err().to_string();
        assert_eq!(message("in_porj"), "`targets`: `in_porj` matches nothing here; did you mean `in_proj`?");
        assert_eq!(message("role:linaer"), "`targets`: unknown role in `role:linaer`; did you mean `linear`?");
        assert!(message("model.layers.*").contains("matches nothing"));
        let all_taken = TargetExpr::new(["in_proj", "!in_proj"]).select(&candidates()).unwrap_err().to_string();
        assert!(all_taken.contains("selects nothing"), "{all_taken}");
    }
}
