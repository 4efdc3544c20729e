from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("main", "0003_checkpoints"),
    ]

    operations = [
        migrations.AddField(
            model_name="workerbeat",
            name="capacity",
            field=models.PositiveIntegerField(db_default=1, verbose_name="places"),
        ),
        migrations.AddField(
            model_name="workerbeat",
            name="stuck",
            field=models.PositiveIntegerField(db_default=0, verbose_name="stuck threads"),
        ),
    ]
