"""The bridge: the only place where codec, store, objects, planner and checkpoint meet.

    repository   Repository: a vault's directory, its store, its configuration
    config       config.yaml (the one door to yaml)
    names        which paths and ref names a vault may hold
    refs         HEAD, branches, tags and the reflog
    history      commits read and walked
    selection    which commits are wanted, and in what order
    changes      what a commit stores that its parent does not
    revisions    what the user typed -> a commit
    ignore       .modelvaultignore, with gitignore's rules
    collect      what was named -> files and the paths they are recorded under
    dissect      a file -> template, stem and slots (first pass)
    assemble     template, stem and slots -> the file's bytes
    chunks       a tensor's raw chunks, through its chain
    packs        frames side by side in values of about a mebibyte
    encode       new tensors -> verified frames in packs (second pass)
    commit       files -> a commit, durably
    checkout     a commit -> files, verified
    inventory    the tensors of a committed file by name, and their bytes
    diff         what changed between two commits, tensor by tensor
    identify     a file on disk -> the commits it is from
    export       one tensor as npy, raw bytes or JSON
    worktree     files written so that they are there whole or not at all
    status       HEAD against the files on disk
    liveness     what refs, the reflog and sessions lead to, and all that needs
    recode       a stored tensor coded anew against another reference
    gc           giving back what nothing live needs
    charges      who pays for what is stored
    census       what is live and what it takes
    fsck         every object proved readable
    doctor       what we run on, and whether we can work here
    damage       which commits a bad object hurts

Light commands import what they need and never `dissect`, `chunks`, `encode`, `commit` or `checkout`, which need numpy.
"""
