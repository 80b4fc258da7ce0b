"""probe.json: scikit-learn's RidgeClassifierCV on standardised features, as `ivtlr analyze --probe` fits its probes."""

import os
import numpy
import sklearn
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from numbers_json import write_cases

PENALTIES = [10.0**power for power in range(-2, 5)]

# name, classes, features, of them without change, samples of each half, how far the classes are apart
SHAPES = [
    ("two classes, close", 2, 5, 0, 40, 0.6),
    ("two classes, apart", 2, 3, 0, 30, 4.0),
    ("four classes, few features", 4, 4, 0, 60, 3.0),
    ("four classes, close, features without change", 4, 16, 2, 60, 0.5),
    ("more features than samples", 3, 70, 1, 40, 0.4),
    ("nothing to find", 3, 10, 0, 50, 0.0),
]


def case(seed, name, classes, features, constant, samples, apart):
    random = numpy.random.default_rng(seed)
    centres = apart * random.standard_normal((classes, features))
    labels = random.integers(classes, size=2 * samples)
    scales = 10 ** random.uniform(-1, 1, features)
    values = (centres[labels] + random.standard_normal((2 * samples, features))) * scales
    if constant:
        values[:, :constant] = 3
    values = values.round(3)
    names = [f"c{label}" for label in labels]
    train, test = values[:samples], values[samples:]
    scaler = StandardScaler().fit(train)
    model = RidgeClassifierCV(alphas=PENALTIES).fit(scaler.transform(train), names[:samples])
    return dict(
        name=name,
        train=train.tolist(),
        labels=names[:samples],
        test=test.tolist(),
        test_labels=names[samples:],
        penalty=float(model.alpha_),
        predicted=model.predict(scaler.transform(test)).tolist(),
    )


def make(out):
    cases = [case(seed, *shape) for seed, shape in enumerate(SHAPES)]
    header = dict(
        command="test/parity/python/regenerate.sh --only probe",
        made_with=dict(scikit_learn=sklearn.__version__, numpy=numpy.__version__),
        penalties=PENALTIES,
    )
    write_cases(os.path.join(out, "probe.json"), header, cases)
