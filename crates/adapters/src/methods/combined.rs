//! Several methods on different slots of one model, as one method:
//!
//! ```toml
//! method = { type = "combined", methods = [
//!     { type = "lora", r = 8, targets = ["in_proj", "out_proj"] },
//!     { type = "selective", targets = ["A_log"], layers = "last:50%" },
//! ] }
//! ```
//!
//! Each entry is a method with its options, and with `targets` and `layers` of its own in the languages of the spec; where it names none, the
//! method's default targets and all layers. Entries attach in their order. A stage of one with several (SDT's warm-up) is a stage of all: those
//! with fewer train in every one of them, afresh.

use super::Options;
use crate::error::{AdapterError, Result};
use crate::method::{AttachContext, Attachment, Carried, LossProbe, Method, Stage, joint_carry, joint_stages, own_stage};
use crate::selection::{Chosen, choose};
use peftbench_models::Network;
use peftbench_spec::{Component, LayerSelection, SlotKind, SpecError, TargetExpr, seed};
use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Options.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Combined {
    /// The entries.
    #[serde(default)]
    pub methods: Vec<Entry>,
}

/// A method, and where it attaches.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The method with its options.
    pub method: Component,
    /// Its targets.
    pub targets: TargetExpr,
    /// Its layers.
    pub layers: LayerSelection,
}

/// Keys of an entry that are not the method's.
const TARGETS: &str = "targets";
const LAYERS: &str = "layers";

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let mut method = Component::deserialize(deserializer)?;
        if method.name == "combined" {
            return Err(D::Error::custom("an entry cannot be `combined` itself; list its entries here"));
        }
        fn taken<T: serde::de::DeserializeOwned + Default>(options: &mut Map<String, Value>, key: &str) -> std::result::Result<T, String> {
            let read = |value| serde_json::from_value(value).map_err(|error| format!("`{key}` of an entry: {error}"));
            options.shift_remove(key).map_or_else(|| Ok(T::default()), read)
        }
        let targets = taken(&mut method.options, TARGETS).map_err(D::Error::custom)?;
        let layers = taken(&mut method.options, LAYERS).map_err(D::Error::custom)?;
        Ok(Self { method, targets, layers })
    }
}

/// With every default of the method filled in.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut method = super::resolve(&self.method).map_err(S::Error::custom)?;
        let written = |value: serde_json::Result<Value>| value.map_err(S::Error::custom);
        method.options.insert(TARGETS.to_owned(), written(serde_json::to_value(&self.targets))?);
        method.options.insert(LAYERS.to_owned(), written(serde_json::to_value(&self.layers))?);
        method.serialize(serializer)
    }
}

impl Options for Combined {
    /// Its config is the list of its entries' own.
    const PEFT_TYPE: Option<&'static str> = None;

    fn validate(&self) -> peftbench_spec::error::Result<()> {
        if self.methods.len() < 2 {
            return Err(SpecError::at("methods", format!("expected at least two entries, found {}", self.methods.len())));
        }
        for (i, method) in self.built()?.iter().enumerate() {
            if !method.trains() {
                return Err(SpecError::at(
                    format!("methods[{i}]"),
                    format!("`{}` trains nothing; leave it out", self.methods[i].method.name),
                ));
            }
        }
        let several: Vec<Vec<Stage>> = self.built()?.iter().map(|method| method.stages()).filter(|stages| stages.len() > 1).collect();
        match several.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => {
                Err(SpecError::at("methods", "two entries have several stages each, and not the same; train them one after the other"))
            }
        }
    }
}

impl Combined {
    fn built(&self) -> peftbench_spec::error::Result<Vec<Box<dyn Method>>> {
        let build = |(i, entry): (usize, &Entry)| super::build(&entry.method).map_err(|error| error.below(&format!("methods[{i}]")));
        self.methods.iter().enumerate().map(build).collect()
    }

    /// The name of entry `i` in messages.
    fn name(&self, i: usize) -> &str {
        &self.methods[i].method.name
    }

    fn attach_entry(
        &self,
        i: usize,
        method: &dyn Method,
        chosen: &[Chosen],
        model: &mut dyn Network,
        context: &mut AttachContext<'_>,
    ) -> Result<Attachment> {
        let stage = own_stage(method, context.stage);
        let own = &mut AttachContext { chosen, stage, carried: context.carried, init: context.init, loading: context.loading };
        method.attach(model, own).map_err(|error| below(error, i))
    }
}

fn below(error: AdapterError, i: usize) -> AdapterError {
    match error {
        AdapterError::Spec(error) => AdapterError::Spec(error.below(&format!("methods[{i}]"))),
        other => other,
    }
}

/// What the entries have been attached to so far.
#[derive(Default)]
struct Occupied {
    /// By path, the kind of slot and the entry that came first.
    slots: BTreeMap<String, (SlotKind, usize)>,
    /// The entry that is attached to the prompt, which has no targets.
    prompt: Option<usize>,
}

impl Occupied {
    /// Says which earlier entry forbids what entry `i` has chosen, and where. On one linear layer, or a row part of it, two different methods follow
    /// one upon the other (IA³ on a layer with LoRA); what cannot is one tensor trained twice, the same method twice, and all else, of
    /// which a slot holds one.
    fn conflict(&mut self, i: usize, chosen: &[Chosen], kinds: &BTreeMap<String, SlotKind>, names: &[&str]) -> Option<(usize, String)> {
        if chosen.is_empty() {
            let earlier = self.prompt.replace(i);
            return earlier.map(|earlier| (earlier, "the input sequence".to_owned()));
        }
        for c in chosen {
            let kind = kinds.get(&c.slot).copied().unwrap_or(SlotKind::Param);
            let related = |path: &str, other: SlotKind| match (kind, other) {
                (SlotKind::Linear, SlotKind::Linear) => overlap(path, &c.path()),
                // A layer's weight or bias as a tensor of its own beside what adapts the layer.
                (SlotKind::Linear, SlotKind::Param) => path.strip_suffix(".weight").is_some_and(|module| module == c.slot),
                (SlotKind::Param, SlotKind::Linear) => c.slot.strip_suffix(".weight").is_some_and(|module| overlap(path, module)),
                _ => kind == other && path == c.slot,
            };
            let allowed = |other: SlotKind, earlier: usize| {
                kind == other && matches!(kind, SlotKind::Linear | SlotKind::Sublayer) && names[earlier] != names[i]
            };
            let hit =
                self.slots.iter().find(|(path, (other, earlier))| *earlier != i && related(path, *other) && !allowed(*other, *earlier));
            if let Some((_, (_, earlier))) = hit {
                return Some((*earlier, format!("`{}`", c.path())));
            }
        }
        self.slots.extend(chosen.iter().map(|c| (c.path(), (kinds.get(&c.slot).copied().unwrap_or(SlotKind::Param), i))));
        None
    }
}

/// Whether one path is the other, or a row part of it.
fn overlap(a: &str, b: &str) -> bool {
    let within = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    within(a, b) || within(b, a)
}

impl Method for Combined {
    /// The entries have targets and layers of their own.
    fn slot_kinds(&self) -> &'static [SlotKind] {
        &[]
    }

    fn default_targets(&self, _arch: &str) -> TargetExpr {
        TargetExpr::default()
    }

    fn starts_as_base(&self) -> bool {
        self.built().is_ok_and(|methods| methods.iter().all(|method| method.starts_as_base()))
    }

    fn stages(&self) -> Vec<Stage> {
        joint_stages(self.built().unwrap_or_default().iter().map(AsRef::as_ref))
    }

    fn attach(&self, model: &mut dyn Network, context: &mut AttachContext<'_>) -> Result<Attachment> {
        let methods = self.built()?;
        // Layers that are drawn are drawn from the run's seed, by way of its stream of initialisation, and alike in every stage.
        let drawn = context.init.next_u64();
        let kinds: BTreeMap<String, SlotKind> = model.candidates().into_iter().map(|c| (c.path, c.kind)).collect();
        let names: Vec<&str> = (0..methods.len()).map(|i| self.name(i)).collect();
        let (mut occupied, mut all) = (Occupied::default(), Attachment::default());
        for (i, (method, entry)) in methods.iter().zip(&self.methods).enumerate() {
            let chosen =
                choose(model, &entry.method.name, &**method, &entry.targets, &entry.layers, drawn).map_err(|error| below(error, i))?;
            if let Some((earlier, place)) = occupied.conflict(i, &chosen, &kinds, &names) {
                let problem =
                    format!("`{}` and entry {earlier}, `{}`, both change {place}; give them different targets", names[i], names[earlier]);
                return Err(SpecError::at(format!("methods[{i}].targets"), problem).into());
            }
            let mut init = seed::stream(drawn, &format!("init/{i}"));
            let mut own = AttachContext { chosen: &[], init: &mut init, ..*context };
            all = all.join(self.attach_entry(i, &**method, &chosen, model, &mut own)?);
        }
        Ok(all)
    }

    fn carry(&self, stage: usize, attachment: &Attachment, probe: &mut LossProbe<'_>) -> Result<Carried> {
        joint_carry(self.built()?.iter().map(AsRef::as_ref), stage, attachment, probe)
    }
}
