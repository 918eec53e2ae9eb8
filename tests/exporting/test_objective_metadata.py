"""Loss and noise as sd-scripts writes them (commit 48d368fa, `train_network.py` and `sai_model_spec.py`)."""

from lorasmith.exporting.objective_metadata import ObjectiveFacts, objective_metadata, timestep_range


def test_plain_runs_have_no_key_that_came_later() -> None:
    assert objective_metadata(ObjectiveFacts()) == {
        "ss_noise_offset": "None",
        "ss_multires_noise_iterations": "None",
        "ss_adaptive_noise_scale": "None",
        "ss_min_snr_gamma": "None",
        "ss_ip_noise_gamma": "None",
        "ss_debiased_estimation": "False",
        "ss_loss_type": "l2",
    }
    assert timestep_range(ObjectiveFacts()) == {}


def test_every_setting_is_there() -> None:
    facts = ObjectiveFacts(
        loss_type="huber",
        huber=("snr", 0.2, 1.0),
        min_snr_gamma=5.0,
        debiased_estimation=True,
        regularisation_weight=0.5,
        noise_offset=0.05,
        has_random_offset=True,
        adaptive_noise_scale=-0.1,
        multires_iterations=6,
        perturbation=0.1,
        timesteps=(0, 900),
    )
    assert objective_metadata(facts) == {
        "ss_noise_offset": "0.05",
        "ss_noise_offset_random_strength": "True",
        "ss_multires_noise_iterations": "6",
        "ss_multires_noise_discount": "0.3",
        "ss_adaptive_noise_scale": "-0.1",
        "ss_min_snr_gamma": "5.0",
        "ss_ip_noise_gamma": "0.1",
        "ss_ip_noise_gamma_random_strength": "False",
        "ss_debiased_estimation": "True",
        "ss_prior_loss_weight": "0.5",
        "ss_loss_type": "huber",
        "ss_huber_schedule": "snr",
        "ss_huber_c": "0.2",
        "ss_huber_scale": "1.0",
    }
    assert timestep_range(facts) == {"modelspec.timestep_range": "0,900"}
