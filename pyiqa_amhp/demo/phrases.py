"""What photographers write about each attribute at each level: the words behind the comments.

PHRASES[attribute][level] maps a cause to phrasings. The cause is the edit that did the harm
(`dark`, `tilt`, ...); '' holds what fits any cause. Written for the demo, by us.
"""

PHRASES: dict[str, dict[int, dict[str, list[str]]]] = {
    'light': {
        1: {
            'dark': [
                'badly underexposed, the shadows are completely blocked up',
                'way too dark to see anything', 'terribly dark, all the light is missing',
            ],
            'bright': [
                'badly overexposed, the highlights are completely blown',
                'way too bright, everything is burnt out', 'terribly blown out light',
            ],
            'flat': ['the light is dreadfully flat and lifeless', 'terrible dull, muddy light'],
            'harsh': ['dreadfully harsh light, no tones left', 'terrible crushed, brutal light'],
        },
        2: {
            'dark': [
                'underexposed and the shadows are blocked up', 'too dark overall',
                'needs a lot more light',
            ],
            'bright': [
                'overexposed and the highlights are clipped', 'too bright overall',
                'the highlights are blown',
            ],
            'flat': ['the light is flat and dull', 'poor flat lighting'],
            'harsh': ['the light is too harsh', 'poor harsh lighting'],
        },
        3: {
            'dark': ['could be a little brighter', 'the exposure is slightly dark'],
            'bright': ['could be a little darker', 'the exposure is slightly hot'],
            'flat': ['the lighting is okay but a touch flat', 'could use a bit more contrast'],
            'harsh': ['the lighting is okay but a touch harsh', 'a bit less contrast would help'],
        },
        4: {'': [
            'good light', 'the lighting is nice', 'well exposed', 'nice exposure',
        ]},
        5: {'': [
            'the light is gorgeous', 'beautiful lighting', 'perfect exposure',
            'wonderful light and tones', 'superb tonal range',
        ]},
    },
    'color': {
        1: {
            'cast': [
                'the white balance is terribly off', 'awful color cast all over',
                'the color cast ruins it',
            ],
            'pale': ['the colors are completely drained', 'horribly washed out color'],
            'garish': ['the colors are hideously oversaturated', 'horribly garish color'],
        },
        2: {
            'cast': [
                'the white balance is off', 'there is a strong color cast',
                'the colors look wrong',
            ],
            'pale': ['the colors are washed out', 'the color is too pale'],
            'garish': ['the colors are oversaturated', 'the color is too garish'],
        },
        3: {
            'cast': ['a slight color cast', 'the white balance could be better'],
            'pale': ['the colors are a little muted', 'the color could be richer'],
            'garish': ['the colors are a little strong', 'the color could be calmer'],
        },
        4: {'': [
            'nice colors', 'the color is good', 'pleasing color', 'good white balance',
        ]},
        5: {'': [
            'lovely saturated colors', 'the colors are stunning', 'gorgeous rich color',
            'beautiful color harmony', 'wonderful vibrant colors',
        ]},
    },
    'focus': {
        1: {'': [
            'completely out of focus', 'hopelessly blurry', 'nothing at all is in focus',
            'the focus is terrible',
        ]},
        2: {'': [
            'out of focus', 'the focus is off', 'too soft for me', 'quite blurry',
            'it seems you missed focus',
        ]},
        3: {'': [
            'a bit soft', 'slightly soft focus', 'could be sharper', 'the focus is just okay',
        ]},
        4: {'': ['nice and sharp', 'good focus', 'the focus is good', 'sharp enough']},
        5: {'': [
            'tack sharp where it matters', 'razor sharp', 'the focus is spot on',
            'crisp and perfectly focused', 'superb sharpness',
        ]},
    },
    'steadiness': {
        1: {'': [
            'ruined by camera shake', 'terrible motion blur', 'dreadful shake, use a tripod',
            'smeared beyond rescue by movement',
        ]},
        2: {'': [
            'strong motion blur', 'the camera shake hurts', 'too much shake',
            'the movement smears it',
        ]},
        3: {'': [
            'some motion blur', 'a hint of camera shake', 'a faster shutter would help',
            'slight movement',
        ]},
        4: {'': ['steady enough', 'hardly any shake', 'held fairly steady']},
        5: {'': [
            'rock steady', 'perfectly frozen', 'no trace of shake', 'great shutter speed',
        ]},
    },
    'composition': {
        1: {
            'tilt': ['the horizon is terribly tilted', 'so crooked that it makes me dizzy'],
            'offset': ['an awful crop, half the subject is cut off', 'terrible framing'],
        },
        2: {
            'tilt': ['the horizon is tilted', 'clearly crooked, needs straightening'],
            'offset': [
                'the crop feels unbalanced', 'the subject is too close to the edge',
                'awkward framing',
            ],
        },
        3: {
            'tilt': ['tilted a little', 'not quite level'],
            'offset': ['the crop could be better', 'the framing is so so', 'a bit off center'],
        },
        4: {'': [
            'good composition', 'nicely framed', 'a nice crop', 'the framing works',
        ]},
        5: {'': [
            'beautifully composed', 'a perfect crop', 'excellent composition',
            'strong, balanced composition', 'the framing is superb',
        ]},
    },
    'detail': {
        1: {'': [
            'horrible noise everywhere', 'so noisy that all detail is gone',
            'the noise is awful', 'unbearably grainy',
        ]},
        2: {'': [
            'very noisy', 'too much grain', 'the noise eats the detail', 'quite grainy',
        ]},
        3: {'': [
            'some noise in the shadows', 'a little grainy', 'slightly noisy', 'a bit of grain',
        ]},
        4: {'': ['good detail', 'fairly clean', 'hardly any noise', 'nice texture']},
        5: {'': [
            'amazing detail', 'exquisite textures', 'wonderfully clean, no noise',
            'every detail shows',
        ]},
    },
    'content': {
        1: {'': [
            'the subject is utterly boring', 'nothing here to look at', 'a pointless snapshot',
            'I really dislike the subject',
        ]},
        2: {'': [
            'the subject does little for me', 'not much of interest', 'a rather ordinary scene',
            'it lacks a story',
        ]},
        3: {'': [
            'an okay subject', 'the subject is fairly usual', 'the idea is alright',
            'an everyday moment',
        ]},
        4: {'': [
            'an interesting subject', 'I like the subject', 'a good moment', 'a nice idea',
        ]},
        5: {'': [
            'I love this subject', 'a fascinating subject', 'what a magical moment',
            'so full of character', 'a truly captivating scene',
        ]},
    },
}  # fmt: skip

PRAISE = (
    'congrats on the ribbon', 'congratulations on your ribbon!', 'nice shot', 'great shot!',
    'well done', 'good luck in the challenge', 'very cool', 'this one gets my vote',
    'nice work, congrats', 'love it', 'good entry', 'thanks for sharing', 'wow', 'nice one!',
    'great job', 'welcome to the site, nice first entry', 'into my favorites', 'good job :)',
)  # fmt: skip

OPENINGS = ('hmm,', 'for me', 'my two cents:', 'honestly,', 'imho', 'well,')
CLOSINGS = ('just my opinion', 'good luck', 'thanks for sharing', 'keep shooting', 'ymmv')

# What others write for the same thing; used now and then, so that a model must cope.
SPELLINGS = (
    ('color', 'colour'), ('center', 'centre'), ('too ', 'to '), ('lighting', 'lightning'),
    ('okay', 'ok'), ('grainy', 'grany'), ('composition', 'compostion'), ('focus', 'focuss'),
    ('beautiful', 'beatiful'), ('really', 'realy'), ('a little', 'a lil'), ('you', 'u'),
)  # fmt: skip
