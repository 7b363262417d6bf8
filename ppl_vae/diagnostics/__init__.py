"""Whether to believe a fitted pair: every diagnostic is a function of a model, its guide and held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.diagnostics._anomalies.anomaly import Anomaly as Anomaly
    from ppl_vae.diagnostics._anomalies.anomaly import anomalies_of as anomalies_of
    from ppl_vae.diagnostics._anomalies.anomaly import anomaly as anomaly
    from ppl_vae.diagnostics._anomalies.anomaly import of_rows as of_rows
    from ppl_vae.diagnostics._anomalies.auc import AUC as AUC
    from ppl_vae.diagnostics._calibration.local import LocalCalibration as LocalCalibration
    from ppl_vae.diagnostics._calibration.local import local_calibration as local_calibration
    from ppl_vae.diagnostics._calibration.sbc import Calibration as Calibration
    from ppl_vae.diagnostics._calibration.sbc import calibration as calibration
    from ppl_vae.diagnostics._certification.certified import Certified as Certified
    from ppl_vae.diagnostics._certification.certify import certify as certify
    from ppl_vae.diagnostics._collapse.posterior_collapse import Collapse as Collapse
    from ppl_vae.diagnostics._collapse.posterior_collapse import collapse as collapse
    from ppl_vae.diagnostics._criticism.distances import TwoSampleTest as TwoSampleTest
    from ppl_vae.diagnostics._criticism.distances import classifier_two_sample as classifier_two_sample
    from ppl_vae.diagnostics._criticism.distances import mmd as mmd
    from ppl_vae.diagnostics._criticism.distances import sliced_wasserstein as sliced_wasserstein
    from ppl_vae.diagnostics._criticism.leave_one_out import LooPIT as LooPIT
    from ppl_vae.diagnostics._criticism.leave_one_out import loo_pit as loo_pit
    from ppl_vae.diagnostics._criticism.predictive_checks import PredictiveCheck as PredictiveCheck
    from ppl_vae.diagnostics._criticism.predictive_checks import predictive_check as predictive_check
    from ppl_vae.diagnostics._criticism.two_samples import TwoSample as TwoSample
    from ppl_vae.diagnostics._criticism.two_samples import two_sample as two_sample
    from ppl_vae.diagnostics._evidence.annealing import AnnealedEvidence as AnnealedEvidence
    from ppl_vae.diagnostics._evidence.annealing import annealed_evidence as annealed_evidence
    from ppl_vae.diagnostics._evidence.bdmc import Bidirectional as Bidirectional
    from ppl_vae.diagnostics._evidence.bdmc import bidirectional as bidirectional
    from ppl_vae.diagnostics._evidence.gaps import Gap as Gap
    from ppl_vae.diagnostics._evidence.gaps import gap as gap
    from ppl_vae.diagnostics._evidence.plot_khat import khat_scatter as khat_scatter
    from ppl_vae.diagnostics._factors.meaning import Factors as Factors
    from ppl_vae.diagnostics._factors.meaning import factors as factors
    from ppl_vae.diagnostics._factors.meaning import factors_of_codes as factors_of_codes
    from ppl_vae.diagnostics._factors.probes import Probe as Probe
    from ppl_vae.diagnostics._factors.probes import Probes as Probes
    from ppl_vae.diagnostics._factors.probes import probes as probes
    from ppl_vae.diagnostics._joint.weights import JointWeightsVerdict as JointWeightsVerdict
    from ppl_vae.diagnostics._joint.weights import joint_posterior as joint_posterior

__getattr__, __dir__, __all__ = lazily(
    __name__,
    [
        "ppl_vae.diagnostics._anomalies.anomaly:Anomaly",
        "ppl_vae.diagnostics._anomalies.anomaly:anomalies_of",
        "ppl_vae.diagnostics._anomalies.anomaly:anomaly",
        "ppl_vae.diagnostics._anomalies.anomaly:of_rows",
        "ppl_vae.diagnostics._anomalies.auc:AUC",
        "ppl_vae.diagnostics._calibration.local:LocalCalibration",
        "ppl_vae.diagnostics._calibration.local:local_calibration",
        "ppl_vae.diagnostics._calibration.sbc:Calibration",
        "ppl_vae.diagnostics._calibration.sbc:calibration",
        "ppl_vae.diagnostics._certification.certified:Certified",
        "ppl_vae.diagnostics._certification.certify:certify",
        "ppl_vae.diagnostics._collapse.posterior_collapse:Collapse",
        "ppl_vae.diagnostics._collapse.posterior_collapse:collapse",
        "ppl_vae.diagnostics._criticism.distances:TwoSampleTest",
        "ppl_vae.diagnostics._criticism.distances:classifier_two_sample",
        "ppl_vae.diagnostics._criticism.distances:mmd",
        "ppl_vae.diagnostics._criticism.distances:sliced_wasserstein",
        "ppl_vae.diagnostics._criticism.leave_one_out:LooPIT",
        "ppl_vae.diagnostics._criticism.leave_one_out:loo_pit",
        "ppl_vae.diagnostics._criticism.predictive_checks:PredictiveCheck",
        "ppl_vae.diagnostics._criticism.predictive_checks:predictive_check",
        "ppl_vae.diagnostics._criticism.two_samples:TwoSample",
        "ppl_vae.diagnostics._criticism.two_samples:two_sample",
        "ppl_vae.diagnostics._evidence.annealing:AnnealedEvidence",
        "ppl_vae.diagnostics._evidence.annealing:annealed_evidence",
        "ppl_vae.diagnostics._evidence.bdmc:Bidirectional",
        "ppl_vae.diagnostics._evidence.bdmc:bidirectional",
        "ppl_vae.diagnostics._evidence.gaps:Gap",
        "ppl_vae.diagnostics._evidence.gaps:gap",
        "ppl_vae.diagnostics._evidence.plot_khat:khat_scatter",
        "ppl_vae.diagnostics._factors.meaning:Factors",
        "ppl_vae.diagnostics._factors.meaning:factors",
        "ppl_vae.diagnostics._factors.meaning:factors_of_codes",
        "ppl_vae.diagnostics._factors.probes:Probe",
        "ppl_vae.diagnostics._factors.probes:Probes",
        "ppl_vae.diagnostics._factors.probes:probes",
        "ppl_vae.diagnostics._joint.weights:JointWeightsVerdict",
        "ppl_vae.diagnostics._joint.weights:joint_posterior",
    ],
)
