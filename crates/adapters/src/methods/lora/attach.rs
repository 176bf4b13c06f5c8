//! Attaching updates to the chosen slots.

use super::stacked::Stacked;
use super::start::begin;
use super::update::{LookUp, Update};
use super::{Lora, Size};
use crate::error::Result;
use crate::export::module_path;
use crate::folder::PREFIX;
use crate::method::{AdapterParam, AttachContext, FileForm};
use crate::methods::initializer::Initializer;
use crate::methods::try_visit;
use crate::selection::{Chosen, rows_of};
use peftbench_models::Network;
use peftbench_models::slots::{LinearSlot, ParamSlot, SlotMut};
use peftbench_ops::linear::RowRanges;
use peftbench_ops::{Param, Tensor};
use peftbench_spec::SpecError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The update of a linear layer, or of a row part of it.
#[derive(Clone)]
pub(crate) struct Trained {
    /// A [rank, in].
    pub a: Param,
    /// B [rows, rank].
    pub b: Param,
    /// Factor of B A.
    pub scale: f64,
    /// The rows that it updates.
    pub rows: RowRanges,
    /// Its rank and alpha.
    pub size: Size,
    /// A and B as they began, where their product has been taken from the base weight.
    pub taken: Option<(Tensor, Tensor)>,
}

/// All updates of a model.
pub(crate) struct Attached {
    pub params: Vec<AdapterParam>,
    pub forms: Vec<Arc<dyn FileForm>>,
    /// Rank and alpha of each module as the adapter file has it.
    pub sizes: BTreeMap<String, Size>,
}

/// What a method adds beside the update of a linear layer; it sees the place and the update.
pub(crate) type Beside<'a> = dyn FnMut(&mut LinearSlot, &Chosen, &Trained) -> Result<Vec<AdapterParam>> + 'a;

impl Lora {
    /// Attaches an update wherever `context` says. Updates of row parts are stacked in the file, unless the method adds something `beside` them.
    pub(crate) fn attach_updates(
        &self,
        model: &mut dyn Network,
        context: &mut AttachContext<'_>,
        beside: &mut Beside<'_>,
    ) -> Result<Attached> {
        let mut all = Attached { params: Vec::new(), forms: Vec::new(), sizes: BTreeMap::new() };
        try_visit(model, &mut |slot| {
            let path = slot.info().path.clone();
            let chosen: Vec<&Chosen> = context.chosen.iter().filter(|c| c.slot == path).collect();
            match slot {
                SlotMut::Linear(slot) => self.attach_linear(slot, &chosen, context, beside, &mut all),
                SlotMut::Param(slot) => chosen.iter().try_for_each(|chosen| self.attach_embedding(slot, chosen, context, &mut all)),
                _ => Ok(()),
            }
        })?;
        Ok(all)
    }

    fn attach_linear(
        &self,
        slot: &mut LinearSlot,
        chosen: &[&Chosen],
        context: &mut AttachContext<'_>,
        beside: &mut Beside<'_>,
        all: &mut Attached,
    ) -> Result<()> {
        let mut trained = Vec::new();
        let mut others = 0;
        for chosen in chosen {
            let update = self.train_linear(slot, chosen, context)?;
            all.params.push(AdapterParam::added(update.a.clone(), chosen));
            all.params.push(AdapterParam::added(update.b.clone(), chosen).with_lr_factor(self.loraplus_lr_ratio));
            let added = beside(slot, chosen, &update)?;
            others += added.len();
            all.params.extend(added);
            trained.push((chosen.path(), update));
        }
        let stacks = chosen.iter().any(|chosen| chosen.part.is_some()) || trained.iter().any(|(_, update)| update.taken.is_some());
        if stacks && others == 0 {
            let updates = trained.into_iter().map(|(_, update)| update).collect();
            let stacked = Stacked::new(&slot.info.path, slot.dims().0, updates);
            let rank = stacked.rank();
            all.sizes.insert(slot.info.path.clone(), Size { rank, alpha: stacked.scale() * self.divisor(rank) });
            all.forms.push(Arc::new(stacked));
        } else {
            all.sizes.extend(trained.into_iter().map(|(path, update)| (path, update.size)));
        }
        Ok(())
    }

    fn train_linear(&self, slot: &mut LinearSlot, chosen: &Chosen, context: &mut AttachContext<'_>) -> Result<Trained> {
        let (path, input) = (chosen.path(), slot.dims().1);
        let rows = rows_of(chosen, slot);
        let size = self.size(&path)?;
        check_fits("r", size.rank, (rows.len(), input), &path, context.loading)?;
        let scale = self.scale(size);
        let init = &mut Initializer::beside(&slot.weight.param.value(), context.init);
        let (a, b) = begin(self.init_lora_weights, slot, &rows, size.rank, scale, init)?;
        let taken = self.init_lora_weights.takes_from_base().then(|| (a.clone(), b.clone()));
        let name = |which: &str| format!("{PREFIX}{path}.lora_{which}.weight");
        let (a, b) = (Param::trainable(name("A"), a), Param::trainable(name("B"), b));
        let update = Update { a: a.clone(), b: b.clone(), scale, dropout: self.lora_dropout, rows: rows.clone() };
        slot.attach(Box::new(update));
        Ok(Trained { a, b, scale, rows, size, taken })
    }

    fn attach_embedding(&self, slot: &mut ParamSlot, chosen: &Chosen, context: &mut AttachContext<'_>, all: &mut Attached) -> Result<()> {
        let path = module_path(&slot.info.path).to_owned();
        let size = self.size(&path)?;
        let (rows, columns) = slot.param.value().dims2()?;
        check_fits("r", size.rank, (rows, columns), &path, context.loading)?;
        let scale = self.scale(size);
        let mut init = Initializer::beside(&slot.param.value(), context.init);
        let a = Param::trainable(format!("{PREFIX}{path}.lora_embedding_A"), init.zeros((size.rank, rows))?);
        let b = Param::trainable(format!("{PREFIX}{path}.lora_embedding_B"), init.normal((columns, size.rank), 1.0)?);
        slot.attach(Box::new(LookUp { a: a.clone(), b: b.clone(), scale }));
        all.params.push(AdapterParam::added(a, chosen));
        all.params.push(AdapterParam::added(b, chosen).with_lr_factor(self.loraplus_lr_ratio));
        all.sizes.insert(path, size);
        Ok(())
    }
}

/// Refuses a rank, the option `key`, above the smaller dimension, which can only waste parameters; other programs' adapters may have one.
pub(crate) fn check_fits(key: &str, rank: usize, (rows, columns): (usize, usize), path: &str, loading: bool) -> Result<()> {
    match loading || rank <= rows.min(columns) {
        true => Ok(()),
        false => Err(SpecError::at(key, format!("rank {rank} is above the smaller dimension of `{path}` [{rows}, {columns}]")).into()),
    }
}
